"""Sources of candidates that search: live over an evidence store, or none at all."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import OpenImage, QueryEncoder, QuestionEncoder, Retriever
from medrag_lightning.records import Candidate, Channel, Document, Query, Retrieved
from medrag_lightning.retrieval.asking import Asked, ByPlace, ask, pool_similarities
from medrag_lightning.retrieval.building import Progress, build_store, check_images, embed_sides
from medrag_lightning.retrieval.channels import SIDES_OF, checked_channels
from medrag_lightning.retrieval.index import IndexConfig, VectorIndex, open_index
from medrag_lightning.retrieval.ranking import Hit, in_turn, interleave, leak
from medrag_lightning.retrieval.shards import drop_merged, merge_shards, shards_complete
from medrag_lightning.retrieval.store import EvidenceStore, Side, VectorType, rows_with

logger = logging.getLogger(__name__)
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
        distinct_documents: whether a document is a query's candidate once (then a channel gives its next one). False: each
            channel gives its own nearest, so that the pool of a retriever head is its own top K.
        distinct_texts: whether a channel that searches texts gives each text once: its nearest document stands for all that
            say the same word for word, such as the label texts of a classification set.
        corpus: the name that `Query.searches` calls these documents by: a query with searches asks with the words for this
            corpus, or finds nothing here. Empty: with the question, whatever its searches say.

    An encoder with heads for queries (`interfaces.QueryEncoder`, JOMED stage 2) asks with them; its documents stay as they are.
    """

    def __init__(
        self,
        encoder: Retriever,
        per_channel: dict[str, int],
        index: IndexConfig | None = None,
        dtype: VectorType = "float32",
        batch_size: int = 64,
        distinct_documents: bool = True,
        distinct_texts: bool = False,
        corpus: str = "",
    ) -> None:
        self.corpus = corpus
        self.distinct_documents, self.distinct_texts = distinct_documents, distinct_texts
        self.encoder, self.index, self.dtype, self.batch_size = encoder, index or IndexConfig(), dtype, batch_size
        self.per_channel = checked_channels(per_channel, encoder.shared_space)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.on_progress: Progress | None = None
        self._store: EvidenceStore | None = None
        self._documents: Sequence[Document] = ()
        self._open_image: OpenImage | None = None
        self._indexes: dict[Side, VectorIndex] = {}
        self._asking = encoder  # embeds queries; `refresh` puts another in its place
        self._fresh: dict[Side, NDArray[np.float32]] = {}
        self._place_of: dict[Side, dict[str, int]] = {}
        self._asked: Asked | None = None

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Builds the store and its indexes under `folder`, or checks what is there.

        Raises:
            ValueError: the store belongs to another encoder or corpus, an image has changed, or a channel has nothing to find.
        """
        self._need_documents(documents)
        if EvidenceStore.exists(folder):
            store = EvidenceStore.open(folder)
            store.verify()
            store.check(self.encoder, documents, self.dtype)
            check_images(store, documents, open_image)
            drop_merged(folder)
        elif shards_complete(folder):
            store = merge_shards(folder, documents, self.dtype, self.encoder.fingerprint())
        else:
            store = build_store(folder, documents, open_image, self.encoder, self.dtype, self.batch_size, self.on_progress)
        for side in self._document_sides():
            open_index(store, side, self.index)

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Maps the store and its indexes; refuses a store of another encoder or corpus."""
        self._need_documents(documents)
        store = EvidenceStore.open(folder)
        store.check(self.encoder, documents, self.dtype)
        self._store, self._documents, self._open_image = store, documents, open_image
        self._place_of, self._asked = {}, None
        self._indexes = {
            side: VectorIndex(self._fresh[side], self.index) if side in self._fresh else open_index(store, side, self.index)
            for side in self._document_sides()
        }

    def refresh(self, encoder: Retriever) -> None:
        """From now on `encoder` makes the vectors of queries and documents (index refresh); the store on disk stays as it is.

        The documents are embedded anew in this process and kept in memory; `load` after it rebuilds the indexes.
        """
        store, open_image = self._opened(), self._open_image
        assert open_image is not None
        sides = self._document_sides()
        fresh = embed_sides(self._documents, open_image, encoder, sides, self.batch_size, self.on_progress)
        assert all(len(fresh[side]) == len(store.rows[side]) for side in sides)
        self._fresh, self._asking, self._asked = fresh, encoder, None

    def document_vectors(self, side: Side, ids: Sequence[str]) -> NDArray[np.float32]:
        """(len(ids), D) vectors of documents on a side; ValueError names one that has none there."""
        if not ids:
            return np.zeros((0, self.encoder.dim), np.float32)
        place_of, vectors = self._stored(side)
        if lacking := [name for name in ids if name not in place_of]:
            raise ValueError(f"document {lacking[0]!r} has no {side} vector in the evidence store {self._opened().folder}")
        return np.asarray(vectors[np.array([place_of[name] for name in ids], np.int64)], np.float32)

    def similarities(
        self, queries: Sequence[Query], ids: Sequence[Sequence[str]], channels: Sequence[Channel]
    ) -> list[NDArray[np.float32]]:
        """The scores that a search in `channels` gives the documents `ids` of each query, (K, M); NaN where a side is missing.

        They are cosines, except that an encoder's query heads give vectors shorter than 1. Channels that are not searched may
        be asked for, too.
        """
        checked_channels(dict.fromkeys(map(str, channels), 1), self.encoder.shared_space)
        self._opened()
        return pool_similarities(self._ask(queries, channels), ids, channels, self._stored)

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        """Candidates of each query, channels in turn; the sum of `per_channel` of them if the corpus allows so many."""
        provenance = self.fingerprint()
        asked = self._ask(queries, list(self.per_channel))
        left_out: set[str] = set()
        ranked = {channel: self._rank(channel, queries, asked, left_out) for channel in self.per_channel}
        if left_out:
            told = ", ".join(sorted(left_out)[:5]) + (", ..." if len(left_out) > 5 else "")
            logger.warning("not evidence for the queries whose image they copy: %d documents (%s)", len(left_out), told)
        found = []
        for place, query in enumerate(queries):
            lists_of = {channel: lists[place] for channel, lists in ranked.items()}
            hits = interleave(lists_of, self.per_channel) if self.distinct_documents else in_turn(lists_of)
            candidates = tuple(Candidate(self._documents[hit.row], hit.score, hit.channel) for hit in hits)
            found.append(Retrieved(query.id, candidates, provenance))
        return found

    def fingerprint(self) -> str:
        """Store, pixels, channels, index and the heads that ask; RuntimeError before `load`."""
        store = self._opened()
        pixels = store.manifest["corpus"]["pixels_sha256"]
        channels = [[str(channel), count] for channel, count in self.per_channel.items()]
        distinct = [self.distinct_documents, self.distinct_texts]
        parts: list[Any] = [store.fingerprint, pixels, channels, self.index.fingerprint(), distinct]
        if isinstance(self._asking, QueryEncoder):
            parts.append(["heads", self._asking.query_fingerprint()])
        if isinstance(self._asking, QuestionEncoder):
            parts.append(["questions", self._asking.question_fingerprint()])
        if self.corpus:
            parts.append(["corpus", self.corpus])
        if self._fresh:
            parts.append(["refreshed", self._asking.fingerprint()])
        return fingerprint(*parts)

    def _opened(self) -> EvidenceStore:
        if self._store is None:
            raise RuntimeError("LiveSearch knows no documents before load()")
        return self._store

    def _ask(self, queries: Sequence[Query], channels: Sequence[Channel]) -> Asked:
        """Embeds the queries; those of the last call are not embedded again."""
        assert self._open_image is not None
        if self._asked is None or not self._asked.answers(queries, channels):
            told = self.batch_size, self.on_progress, self.corpus
            self._asked = ask(queries, channels, self._asking, self._open_image, *told)
        return self._asked

    def _stored(self, side: Side) -> ByPlace:
        """The documents' vectors on a side."""
        store = self._opened()
        if self._fresh and side not in self._fresh:
            raise ValueError(f"no channel of per_channel searches {side}s: their vectors are not made anew; add one that does")
        if side not in self._place_of:
            self._place_of[side] = {self._documents[int(row)].id: at for at, row in enumerate(store.rows[side])}
        return self._place_of[side], self._fresh.get(side, store.vectors[side])

    def _rank(self, channel: Channel, queries: Sequence[Query], asked: Asked, left_out: set[str]) -> list[list[Hit]]:
        """Legal hits of each query, best first: as many as there are places in all, or all that the corpus has."""
        asking, side = SIDES_OF[channel]
        assert self._store is not None
        index, rows = self._indexes[side], self._store.rows[side]
        total = sum(self.per_channel.values()) if self.distinct_documents else self.per_channel[channel]
        which = asked.which[asking]
        ranked: list[list[Hit]] = [[] for _ in queries]
        depth = min(len(index), total + SPARE)
        pending = [place for place in range(len(queries)) if which[place] >= 0]
        while pending:
            unique = sorted({which[place] for place in pending})
            scores, found = index.search(asked.vectors[channel][unique], depth)
            line = {vector: at for at, vector in enumerate(unique)}
            for place in pending:
                at = line[which[place]]
                hits = [Hit(int(rows[row]), float(score), channel) for row, score in zip(found[at], scores[at], strict=True)]
                ranked[place] = self._legal(queries[place], asked.pixels[place], hits, total, left_out)
            pending = [place for place in pending if len(ranked[place]) < total and depth < len(index)]
            depth = min(len(index), depth * 4)
        return ranked

    def _legal(self, query: Query, pixels: str | None, hits: Sequence[Hit], total: int, left_out: set[str]) -> list[Hit]:
        assert self._store is not None
        kept: list[Hit] = []
        said: set[str] = set()
        for hit in hits:
            document = self._documents[hit.row]
            reason = leak(query, document, pixels, self._store.image_sha256[hit.row])
            if reason == "pixels":
                left_out.add(document.id)
            if reason is None and not (self.distinct_texts and SIDES_OF[hit.channel][1] == "text" and document.text in said):
                kept.append(hit)
                said.add(document.text)
                if len(kept) == total:
                    break
        return kept

    def _document_sides(self) -> list[Side]:
        return sorted({SIDES_OF[channel][1] for channel in self.per_channel})

    def _need_documents(self, documents: Sequence[Document]) -> None:
        for channel in self.per_channel:
            side = SIDES_OF[channel][1]
            if documents and not len(rows_with(documents, side)):
                raise ValueError(f"channel {channel} has nothing to find: the corpus has no {side}s; leave the channel out")
