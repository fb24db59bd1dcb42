"""Candidates of several channels in one order: re-ranked by a weighted sum of all their similarities (MR-RAG, MCR)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import OpenImage, Retriever, SimilarityFusion
from medrag_lightning.records import Candidate, Channel, Document, Query, Retrieved
from medrag_lightning.retrieval.channels import checked_channels
from medrag_lightning.retrieval.source import LiveSearch
from medrag_lightning.retrieval.store import Side

CHUNK = 4096  # queries whose similarities are held at once


class FusedSearch:
    """The best of a pool by f(q, d) = sum_m w_m cos_m(q, d), whichever channel found them.

    A candidate's score is f, its channel `Channel.FUSED`. The leak rule is the pool's. A candidate that has none of the
    fusion's similarities (its only side is one that no channel of the fusion compares) is left out. Equal f: in pool order.

    Args:
        pool: finds the candidates: the union of what its channels give.
        fusion: `models.similarity_fusion.TrainedFusion`, or `FixedFusion` for a single similarity or weights by hand.
        top: candidates of a query that go on (K in the prompt).
        candidates: how many of the pool's candidates are re-ranked, the channels' first ones in turn; null for all.
    """

    def __init__(self, pool: LiveSearch, fusion: SimilarityFusion, top: int, candidates: int | None = None) -> None:
        size = sum(pool.per_channel.values())
        if not 1 <= top <= (candidates or size) <= size:
            raise ValueError(
                f"FusedSearch needs 1 <= top <= candidates <= {size} (the sum of pool.per_channel), got top={top}, "
                f"candidates={candidates}"
            )
        self.pool, self.fusion, self.top, self.candidates = pool, fusion, top, candidates

    @property
    def encoder(self) -> Retriever:
        """The pool's."""
        return self.pool.encoder

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Prepares the pool."""
        self.pool.prepare(documents, open_image, folder)

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Loads the pool; ValueError where the encoder cannot compare what the fusion weighs."""
        checked_channels(dict.fromkeys(map(str, self.fusion.channels), 1), self.encoder.shared_space)
        self.pool.load(documents, open_image, folder)

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        """The `top` candidates of each query, best first."""
        provenance = self.fingerprint()
        found = []
        for start in range(0, len(queries), CHUNK):
            part = queries[start : start + CHUNK]
            pools = [_distinct(one.candidates)[: self.candidates] for one in self.pool.retrieve(part)]
            scores = self._scores(part, [[candidate.id for candidate in pool] for pool in pools])
            found += [self._best(*one, provenance) for one in zip(part, pools, scores, strict=True)]
        return found

    def fused_scores(self, queries: Sequence[Query], ids: Sequence[Sequence[str]]) -> list[list[float]]:
        """f of documents as if they stood in their query's pool, within which similarities are compared; NaN without any."""
        found: list[list[float]] = []
        for start in range(0, len(queries), CHUNK):
            part, mine = queries[start : start + CHUNK], ids[start : start + CHUNK]
            pools = [[c.id for c in _distinct(one.candidates)[: self.candidates]] for one in self.pool.retrieve(part)]
            beside = [list(dict.fromkeys([*pool, *row])) for pool, row in zip(pools, mine, strict=True)]
            score_BK = self._scores(part, beside)
            found += [[float(score_BK[b, beside[b].index(name)]) for name in row] for b, row in enumerate(mine)]
        return found

    def document_vectors(self, side: Side, ids: Sequence[str]) -> NDArray[np.float32]:
        """The pool's."""
        return self.pool.document_vectors(side, ids)

    def similarities(
        self, queries: Sequence[Query], ids: Sequence[Sequence[str]], channels: Sequence[Channel]
    ) -> list[NDArray[np.float32]]:
        """The pool's."""
        return self.pool.similarities(queries, ids, channels)

    def fingerprint(self) -> str:
        """Pool, fusion, and how many candidates are re-ranked and kept."""
        return fingerprint("fused", self.pool.fingerprint(), self.fusion.fingerprint(), [self.top, self.candidates])

    def _scores(self, queries: Sequence[Query], ids: Sequence[Sequence[str]]) -> NDArray[np.float32]:
        """f (B, K), padded with NaN."""
        channels = self.fusion.channels
        found = self.pool.similarities(queries, ids, channels)
        similarity_BKM = np.full((len(queries), max(map(len, ids)), len(channels)), np.nan, np.float32)
        for place, found_KM in enumerate(found):
            similarity_BKM[place, : len(found_KM)] = found_KM
        return self.fusion.scores(similarity_BKM, queries)

    def _best(self, query: Query, pool: Sequence[Candidate], score_K: NDArray[np.float32], provenance: str) -> Retrieved:
        known = [place for place in range(len(pool)) if not np.isnan(score_K[place])]
        first = sorted(known, key=lambda place: -float(score_K[place]))[: self.top]
        chosen = tuple(Candidate(pool[place].document, float(score_K[place]), Channel.FUSED) for place in first)
        return Retrieved(query.id, chosen, provenance)


def _distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Each document once, where it comes first."""
    first: dict[str, Candidate] = {}
    for candidate in candidates:
        first.setdefault(candidate.id, candidate)
    return list(first.values())
