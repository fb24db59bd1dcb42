"""Sources of candidates that search: live over an evidence store, or none at all."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.batches import pixel_sha256
from medrag_lightning.interfaces import OpenImage, Retriever
from medrag_lightning.records import Candidate, Channel, Document, ImageRef, Query, Retrieved
from medrag_lightning.retrieval.building import Progress, Report, build_store, check_images
from medrag_lightning.retrieval.index import IndexConfig, VectorIndex, open_index
from medrag_lightning.retrieval.ranking import Hit, interleave, leak
from medrag_lightning.retrieval.shards import merge_shards, shards_complete
from medrag_lightning.retrieval.store import EvidenceStore, Side, VectorType, rows_with

logger = logging.getLogger(__name__)
_SIDES_OF: dict[Channel, tuple[Side, Side]] = {
    Channel.IMAGE_TO_IMAGE: ("image", "image"),
    Channel.IMAGE_TO_TEXT: ("image", "text"),
    Channel.TEXT_TO_TEXT: ("text", "text"),
    Channel.TEXT_TO_IMAGE: ("text", "image"),
}
SPARE = 8  # hits fetched beyond those wanted, for the leak rule


class NoEvidence:
    """No candidates: the reader alone. Also what a data module needs while its corpus is being embedded."""

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Does nothing."""

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Does nothing."""

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        """An empty tuple for every query."""
        return [Retrieved(query.id, (), "no evidence") for query in queries]

    def fingerprint(self) -> str:
        """Always the same."""
        return fingerprint("no evidence")


@dataclass(frozen=True, slots=True)
class _Asked:
    """Embedded queries: vectors of the different images and questions, and which of them each query has (-1: none)."""

    vectors: Mapping[Side, NDArray[np.float32]]
    which: Mapping[Side, list[int]]
    pixels: list[str | None]


class LiveSearch:
    """Nearest documents by image and text vectors (JOMED: 2 by each of two channels).

    `prepare` embeds the corpus in this process if no store is there, merges what `predict` with the embedding stage left, or
    checks an old store against encoder, corpus and a sample of the images. A query's own image, patient or study is never
    evidence, nor a copy of its image under another name; as many documents as such a rule removes are fetched on top.

    Args:
        encoder: makes the vectors.
        per_channel: how many candidates each channel gives: ``image_to_image``, ``text_to_text``, and with an encoder of
            one space ``image_to_text``, ``text_to_image``. The first-named channel gives the first candidate.
        index: kind of index; null for the exact one.
        dtype: of the stored vectors; ``float16`` halves the store.
        batch_size: items that are opened and embedded at a time.
    """

    def __init__(
        self,
        encoder: Retriever,
        per_channel: dict[str, int],
        index: IndexConfig | None = None,
        dtype: VectorType = "float32",
        batch_size: int = 64,
    ) -> None:
        self.encoder, self.index, self.dtype, self.batch_size = encoder, index or IndexConfig(), dtype, batch_size
        self.per_channel = _channels(per_channel, encoder.shared_space)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.on_progress: Progress | None = None
        self._store: EvidenceStore | None = None
        self._documents: Sequence[Document] = ()
        self._open_image: OpenImage | None = None
        self._indexes: dict[Side, VectorIndex] = {}

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Builds the store and its indexes under `folder`, or checks what is there.

        Raises:
            ValueError: the store belongs to another encoder or corpus, an image has changed, or a channel has nothing to find.
        """
        self._need_documents(documents)
        if EvidenceStore.exists(folder):
            store = EvidenceStore.open(folder)
            store.check(self.encoder, documents, self.dtype)
            check_images(store, documents, open_image)
        elif shards_complete(folder):
            store = merge_shards(folder, documents, self.dtype, self.encoder.fingerprint())
        else:
            store = build_store(
                folder, documents, open_image, self.encoder, self.dtype, self.batch_size, self.on_progress
            )
        for side in self._document_sides():
            open_index(store, side, self.index)

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Maps the store and its indexes; refuses a store of another encoder or corpus."""
        self._need_documents(documents)
        store = EvidenceStore.open(folder)
        store.check(self.encoder, documents, self.dtype)
        self._store, self._documents, self._open_image = store, documents, open_image
        self._indexes = {side: open_index(store, side, self.index) for side in self._document_sides()}

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        """Candidates of each query, channels in turn; the sum of `per_channel` of them if the corpus allows so many."""
        provenance = self.fingerprint()
        asked = self._ask(queries)
        left_out: set[str] = set()
        ranked = {channel: self._rank(channel, queries, asked, left_out) for channel in self.per_channel}
        if left_out:
            told = ", ".join(sorted(left_out)[:5]) + (", ..." if len(left_out) > 5 else "")
            logger.warning("not evidence for the queries whose image they copy: %d documents (%s)", len(left_out), told)
        found = []
        for place, query in enumerate(queries):
            hits = interleave({channel: lists[place] for channel, lists in ranked.items()}, self.per_channel)
            candidates = tuple(Candidate(self._documents[hit.row], hit.score, hit.channel) for hit in hits)
            found.append(Retrieved(query.id, candidates, provenance))
        return found

    def fingerprint(self) -> str:
        """Store, pixels, channels and index; RuntimeError before `load`."""
        if self._store is None:
            raise RuntimeError("LiveSearch has no fingerprint before load()")
        pixels = self._store.manifest["corpus"]["pixels_sha256"]
        channels = [[str(channel), count] for channel, count in self.per_channel.items()]
        return fingerprint(self._store.fingerprint, pixels, channels, self.index.fingerprint())

    def _ask(self, queries: Sequence[Query]) -> _Asked:
        """Embeds the different images and questions among `queries`, each once."""
        images = list(dict.fromkeys(query.image for query in queries if query.image is not None))
        texts = list(dict.fromkeys(query.question for query in queries if query.question.strip()))
        needed = {_SIDES_OF[channel][0] for channel in self.per_channel}
        image_UD, pixels = self._embed_images(images, embed="image" in needed)
        text_UD = self.encoder.embed_texts(texts if "text" in needed else [])
        image_at = {image: place for place, image in enumerate(images)}
        text_at = {text: place for place, text in enumerate(texts)}
        which: dict[Side, list[int]] = {
            "image": [-1 if query.image is None else image_at[query.image] for query in queries],
            "text": [text_at.get(query.question, -1) for query in queries],
        }
        return _Asked({"image": image_UD, "text": text_UD}, which, [None if i < 0 else pixels[i] for i in which["image"]])

    def _embed_images(self, images: Sequence[ImageRef], embed: bool) -> tuple[NDArray[np.float32], list[str]]:
        """Vectors of the images (none unless `embed`), and the sha256 of their pixels."""
        assert self._open_image is not None
        vectors, pixels = [self.encoder.embed_images([])], []
        report = Report("query images embedded", len(images), self.on_progress)
        for start in range(0, len(images), self.batch_size):
            part = [self._open_image(image) for image in images[start : start + self.batch_size]]
            pixels += [pixel_sha256(image) for image in part]
            vectors.append(self.encoder.embed_images(part if embed else []))
            report.done(len(pixels))
        return np.concatenate(vectors), pixels

    def _rank(self, channel: Channel, queries: Sequence[Query], asked: _Asked, left_out: set[str]) -> list[list[Hit]]:
        """Legal hits of each query, best first: as many as there are places in all, or all that the corpus has."""
        asking, side = _SIDES_OF[channel]
        assert self._store is not None
        index, rows, total = self._indexes[side], self._store.rows[side], sum(self.per_channel.values())
        which = asked.which[asking]
        ranked: list[list[Hit]] = [[] for _ in queries]
        depth = min(len(index), total + SPARE)
        pending = [place for place in range(len(queries)) if which[place] >= 0]
        while pending:
            unique = sorted({which[place] for place in pending})
            scores, found = index.search(asked.vectors[asking][unique], depth)
            line = {vector: at for at, vector in enumerate(unique)}
            for place in pending:
                at = line[which[place]]
                hits = [Hit(int(rows[row]), float(score), channel) for row, score in zip(found[at], scores[at], strict=True)]
                ranked[place] = self._legal(queries[place], asked.pixels[place], hits, total, left_out)
            pending = [place for place in pending if len(ranked[place]) < total and depth < len(index)]
            depth = min(len(index), depth * 4)
        return ranked

    def _legal(
        self, query: Query, pixels: str | None, hits: Sequence[Hit], total: int, left_out: set[str]
    ) -> list[Hit]:
        assert self._store is not None
        kept: list[Hit] = []
        for hit in hits:
            document = self._documents[hit.row]
            reason = leak(query, document, pixels, self._store.image_sha256[hit.row])
            if reason == "pixels":
                left_out.add(document.id)
            if reason is None:
                kept.append(hit)
                if len(kept) == total:
                    break
        return kept

    def _document_sides(self) -> list[Side]:
        return sorted({_SIDES_OF[channel][1] for channel in self.per_channel})

    def _need_documents(self, documents: Sequence[Document]) -> None:
        for channel in self.per_channel:
            side = _SIDES_OF[channel][1]
            if documents and not len(rows_with(documents, side)):
                raise ValueError(f"channel {channel} has nothing to find: the corpus has no {side}s; leave the channel out")


def _channels(per_channel: Mapping[str, int], shared_space: bool) -> dict[Channel, int]:
    """Channels by name, checked."""
    searched = ", ".join(_SIDES_OF)
    if not per_channel:
        raise ValueError(f"per_channel is empty: name at least one of {searched}, or use NoEvidence")
    for name, count in per_channel.items():
        if name not in list(_SIDES_OF):
            raise ValueError(f"per_channel: {name!r} is no channel that can be searched; choose from {searched}")
        if count < 1:
            raise ValueError(f"per_channel: {name} must be at least 1, got {count}; leave the channel out instead")
        asking, side = _SIDES_OF[Channel(name)]
        if asking != side and not shared_space:
            raise ValueError(
                f"per_channel: {name} compares {asking}s with {side}s, but the encoder keeps them in separate spaces; "
                "use image_to_image or text_to_text, or an encoder of one space (HfDualEncoder)"
            )
    return {Channel(name): count for name, count in per_channel.items()}
