"""A corpus that outgrows one machine: its vectors in Milvus, in a file or on a server, searched with the leak rule inside."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import OpenImage, QueryEncoder, Retriever
from medrag_lightning.records import Candidate, Channel, Document, Query, Retrieved, unique_by_id
from medrag_lightning.retrieval.asking import Asked, ByPlace, ask, pool_similarities
from medrag_lightning.retrieval.building import Progress
from medrag_lightning.retrieval.channels import SIDES_OF, checked_channels
from medrag_lightning.retrieval.index import SLACK, IndexConfig
from medrag_lightning.retrieval.milvus_build import check_images, check_manifest, expected_manifest, fill, pixels_digest
from medrag_lightning.retrieval.milvus_store import MAX_HITS, MilvusStore, allowed, checked_uri, is_server
from medrag_lightning.retrieval.ranking import Hit, interleave, leak
from medrag_lightning.retrieval.rescoring import pair_scores
from medrag_lightning.retrieval.source import SPARE
from medrag_lightning.retrieval.store import SIDES, Side, rows_with

logger = logging.getLogger(__name__)


class MilvusSearch:
    """Nearest documents by image and text vectors, as `source.LiveSearch`, from vectors that lie in Milvus (extra `milvus`).

    With the exact index its candidates, scores and fingerprint are those of `LiveSearch` with a flat index over the same
    encoder and corpus. `prepare` embeds what is not there yet, in batches: after an interruption it goes on where it stopped.
    Collections of another encoder or corpus are refused. Ids of patients and studies reach Milvus as sha256 alone (of guessable
    ids that hides nothing from who wants to know: a server of hospital data is to be guarded as the data are).

    Args:
        encoder: makes the vectors.
        per_channel: how many candidates each channel gives, as for `LiveSearch`.
        uri: a file (``corpus.db``) or a server (``http://host:19530``); null for a file in the folder of the evidence. A file
            can be open in one process at a time, which serves it to itself on a free port of 127.0.0.1.
        collection: what the names of the collections begin with; another for each corpus of one server.
        index: Milvus's own name of the index, such as ``HNSW`` or ``IVF_SQ8``; only ``FLAT`` is exact.
        index_settings, search_settings: of that index, such as ``{M: 32, efConstruction: 80}`` and ``{ef: 128}``.
        token_variable: the environment variable that holds a server's token; null for none.
        batch_size: items that are opened, embedded and written at a time.
        corpus: the name that `Query.searches` calls these documents by; empty: they are asked with the question.
    """

    def __init__(
        self,
        encoder: Retriever,
        per_channel: dict[str, int],
        uri: str | None = None,
        collection: str = "medrag",
        index: str = "FLAT",
        index_settings: dict[str, int] | None = None,
        search_settings: dict[str, int] | None = None,
        token_variable: str | None = None,
        batch_size: int = 64,
        corpus: str = "",
    ) -> None:
        if not re.fullmatch(r"[A-Za-z_]\w{0,99}", collection, re.ASCII):
            raise ValueError(f"collection {collection!r} is no name for Milvus: letters, digits and _, not a digit first")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if index == "FLAT" and (index_settings or search_settings):
            raise ValueError(
                "index_settings and search_settings would be ignored by FLAT; leave them out or name another index"
            )
        if token_variable is not None and (uri is None or not is_server(uri)):
            raise ValueError("token_variable would be ignored: a file needs no token")
        self.encoder, self.per_channel = encoder, checked_channels(per_channel, encoder.shared_space)
        self.uri, self.collection, self.token_variable = uri, collection, token_variable
        self.index, self.index_settings, self.search_settings = index, index_settings or {}, search_settings or {}
        self.batch_size, self.corpus = batch_size, corpus
        self.on_progress: Progress | None = None
        self._store: MilvusStore | None = None
        self._manifest: dict[str, Any] = {}
        self._documents: Sequence[Document] = ()
        self._row_of: dict[str, int] = {}
        self._open_image: OpenImage | None = None
        self._asked: Asked | None = None

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Embeds the documents that Milvus has no vectors of, or checks a sample of the images of a finished build.

        Raises:
            ValueError: Milvus cannot be reached, holds another corpus or encoder under this name, or an image has changed.
        """
        unique_by_id(documents, "evidence corpus")
        self._need_documents(documents)
        store, expected = self._connect(folder), self._expected(documents)
        manifest = store.manifest()
        if not manifest:
            store.write_manifest(expected | {"complete": False})
        else:
            check_manifest(store, manifest, expected)
        if manifest and manifest.get("complete"):
            check_images(store, documents, open_image)
            return
        for side in SIDES:
            if len(rows_with(documents, side)):
                store.create(side, self.encoder.dim, self.index, self.index_settings)
                store.flush(side)
        fill(store, documents, open_image, self.encoder, self.batch_size, self.on_progress)
        store.write_manifest(expected | {"complete": True, "pixels_sha256": pixels_digest(store, documents)})

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Opens what `prepare` made; ValueError where it is unfinished or belongs to another encoder or corpus."""
        self._need_documents(documents)
        store = self._connect(folder)
        manifest = store.manifest()
        if not manifest or not manifest.get("complete"):
            raise ValueError(f"{self.collection!r} in {store.uri} is not finished; run again, and prepare() goes on with it")
        check_manifest(store, manifest, self._expected(documents))
        for side in sorted({SIDES_OF[channel][1] for channel in self.per_channel}):
            store.flush(side)
        self._manifest, self._documents, self._open_image, self._asked = manifest, documents, open_image, None
        self._row_of = {document.id: row for row, document in enumerate(documents)}

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        """Candidates of each query, channels in turn; the sum of `per_channel` of them if the corpus allows so many."""
        provenance, asked = self.fingerprint(), self._ask(queries, list(self.per_channel))
        found = []
        for place, query in enumerate(queries):
            ranked = {channel: self._rank(channel, query, place, asked) for channel in self.per_channel}
            hits = interleave(ranked, self.per_channel)
            candidates = tuple(Candidate(self._documents[hit.row], hit.score, hit.channel) for hit in hits)
            found.append(Retrieved(query.id, candidates, provenance))
        return found

    def document_vectors(self, side: Side, ids: Sequence[str]) -> NDArray[np.float32]:
        """(len(ids), D) vectors of documents on a side; ValueError names one that has none there."""
        place_of, vectors = self._some(side, ids)
        if lacking := [name for name in ids if name not in place_of]:
            raise ValueError(f"document {lacking[0]!r} has no {side} vector in {self._opened().uri}")
        return vectors[[place_of[name] for name in ids]]

    def similarities(
        self, queries: Sequence[Query], ids: Sequence[Sequence[str]], channels: Sequence[Channel]
    ) -> list[NDArray[np.float32]]:
        """The scores that a search in `channels` gives the documents `ids` of each query, (K, M); NaN without a side."""
        checked_channels(dict.fromkeys(map(str, channels), 1), self.encoder.shared_space)
        wanted = list(dict.fromkeys(name for names in ids for name in names))
        stored = {side: self._some(side, wanted) for side in {SIDES_OF[channel][1] for channel in channels}}
        return pool_similarities(self._ask(queries, channels), ids, channels, stored.__getitem__)

    def fingerprint(self) -> str:
        """Of the exact index that of a flat `LiveSearch` with the same settings; RuntimeError before `load`."""
        self._opened()
        channels = [[str(channel), count] for channel, count in self.per_channel.items()]
        index = IndexConfig().fingerprint()
        if self.index != "FLAT":
            index = fingerprint("milvus", self.index, self.index_settings, self.search_settings)
        parts: list[Any] = [self._manifest["fingerprint"], self._manifest["pixels_sha256"], channels, index, [True, False]]
        if isinstance(self.encoder, QueryEncoder):
            parts.append(["heads", self.encoder.query_fingerprint()])
        if self.corpus:
            parts.append(["corpus", self.corpus])
        return fingerprint(*parts)

    def _connect(self, folder: Path) -> MilvusStore:
        uri = checked_uri(self.uri, folder)
        if self._store is None or self._store.uri != uri:
            token = "" if self.token_variable is None else os.environ.get(self.token_variable, "")
            if self.token_variable is not None and not token:
                raise ValueError(f"token_variable: the environment variable {self.token_variable} is empty or not set")
            self._store = MilvusStore(uri, self.collection, token)
        return self._store

    def _opened(self) -> MilvusStore:
        if self._store is None or not self._manifest:
            raise RuntimeError("MilvusSearch knows no documents before load()")
        return self._store

    def _expected(self, documents: Sequence[Document]) -> dict[str, Any]:
        return expected_manifest(documents, self.encoder, self.index, self.index_settings)

    def _need_documents(self, documents: Sequence[Document]) -> None:
        for channel in self.per_channel:
            side = SIDES_OF[channel][1]
            if not len(rows_with(documents, side)):
                raise ValueError(f"channel {channel} has nothing to find: the corpus has no {side}s; leave the channel out")

    def _ask(self, queries: Sequence[Query], channels: Sequence[Channel]) -> Asked:
        """Embeds the queries; those of the last call are not embedded again."""
        self._opened()
        assert self._open_image is not None
        if self._asked is None or not self._asked.answers(queries, channels):
            told = self.batch_size, self.on_progress, self.corpus
            self._asked = ask(queries, channels, self.encoder, self._open_image, *told)
        return self._asked

    def _some(self, side: Side, ids: Sequence[str]) -> ByPlace:
        """The vectors of some documents on a side."""
        store, row_of = self._opened(), {name: self._row_of[name] for name in ids if name in self._row_of}
        vectors = store.vectors(side, list(row_of.values())) if len(rows_with(self._documents, side)) else {}
        known = [name for name, row in row_of.items() if row in vectors]
        stacked = [vectors[row_of[name]] for name in known] or [np.zeros(self.encoder.dim, np.float32)]
        return {name: at for at, name in enumerate(known)}, np.stack(stacked)

    def _rank(self, channel: Channel, query: Query, place: int, asked: Asked) -> list[Hit]:
        """Legal hits of a query, best first and lowest row first among equals: as many as there are places in all."""
        asking, side = SIDES_OF[channel]
        vector = asked.which[asking][place]
        if vector < 0:
            return []
        query_D, pixels, total = asked.vectors[channel][vector], asked.pixels[place], sum(self.per_channel.values())
        rule, depth = allowed(query, pixels), total + SPARE
        while True:
            row_K, rough_K, vector_KD, looks = self._opened().search(side, query_D, depth, rule, self.search_settings)
            hits = [
                Hit(int(row_K[at]), score, channel)
                for at, score in _in_order(query_D, vector_KD, row_K)
                # what the filter cannot know: an image whose file has been moved since the build
                if leak(query, self._documents[row_K[at]], pixels, looks[at] or None) is None
            ]
            if len(row_K) < depth or depth >= MAX_HITS or self._is_settled(hits[:total], total, rough_K, query_D):
                return hits[:total]
            depth = min(depth * 4, MAX_HITS)

    def _is_settled(self, hits: Sequence[Hit], total: int, rough_K: NDArray[np.float32], query_D: NDArray[np.float32]) -> bool:
        """Whether nothing that was not fetched could stand among the hits: ties may reach beyond what was fetched."""
        if len(hits) < total:
            return False
        return self.index != "FLAT" or hits[-1].score > float(rough_K.min()) + SLACK * float(np.linalg.norm(query_D))


def _in_order(
    query_D: NDArray[np.float32], vector_KD: NDArray[np.float32], row_K: NDArray[np.int64]
) -> list[tuple[int, float]]:
    """(place, exact score) of each hit, best first, and the lowest row first among equals."""
    order = np.argsort(row_K, kind="stable")
    score_K = pair_scores(query_D[None], vector_KD[order], np.zeros(len(order), np.int64), np.arange(len(order)), np.float64)
    best_first = np.argsort(-score_K, kind="stable")
    return [(int(order[at]), float(score_K[at])) for at in best_first]
