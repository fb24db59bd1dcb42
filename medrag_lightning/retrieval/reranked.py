"""The best of a pool by a model that reads question and text together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import CandidateSource, OpenImage, Reranker
from medrag_lightning.records import Candidate, Channel, Document, Query, Retrieved
from medrag_lightning.retrieval.wording import wording

QUERIES_AT_ONCE = 256


class RerankedSearch:
    """A pool's first candidates in the order of a re-ranker, the best of which go on (HeteroRAG: top 10, then top 2; H06).

    A candidate's score is what the re-ranker tells; equal ones keep the pool's order. A document without a text cannot be read
    and is left out. The leak rule is the pool's.

    Args:
        pool: finds the candidates.
        reranker: `models.cross_encoder.CrossEncoder`, or `retrieval.word_reranker.WordReranker`, which needs no download.
        keep: candidates of a query that go on.
        candidates: how many of the pool's first are read; null for all.
        corpus: as of the pool: a query with searches is judged by its words for this corpus. Empty: by the question.
    """

    def __init__(
        self, pool: CandidateSource, reranker: Reranker, keep: int = 2, candidates: int | None = 10, corpus: str = ""
    ) -> None:
        if keep < 1 or (candidates is not None and candidates < keep):
            raise ValueError(f"RerankedSearch needs 1 <= keep <= candidates, got keep={keep}, candidates={candidates}")
        self.pool, self.reranker, self.keep, self.candidates, self.corpus = pool, reranker, keep, candidates, corpus

    @property
    def top(self) -> int:
        """Most candidates of a query."""
        return self.keep

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Prepares the pool."""
        self.pool.prepare(documents, open_image, folder)

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Loads the pool."""
        self.pool.load(documents, open_image, folder)

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        """The `keep` candidates of each query, best first."""
        provenance = self.fingerprint()
        found: list[Retrieved] = []
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            part = queries[start : start + QUERIES_AT_ONCE]
            questions = [wording(query, self.corpus) for query in part]
            pools = [self._readable(one.candidates) for one in self.pool.retrieve(part)]
            pools = [[] if text is None else pool for text, pool in zip(questions, pools, strict=True)]
            pairs = [
                (text or "", candidate.document.text) for text, pool in zip(questions, pools, strict=True) for candidate in pool
            ]
            told_P = self.reranker.relevance(pairs) if pairs else np.zeros(0, np.float32)
            assert told_P.shape == (len(pairs),), "one number for each pair"
            if not np.isfinite(told_P).all():
                raise ValueError(f"{type(self.reranker).__name__} gave a number that is none (nan or infinite)")
            parts = np.split(told_P, np.cumsum([len(pool) for pool in pools])[:-1])
            found += [
                Retrieved(query.id, self._best(pool, told_K.tolist()), provenance)
                for query, pool, told_K in zip(part, pools, parts, strict=True)
            ]
        return found

    def fingerprint(self) -> str:
        """Pool, re-ranker, and how many candidates are read and kept."""
        told = [self.keep, self.candidates, self.corpus]
        return fingerprint("reranked", self.pool.fingerprint(), self.reranker.fingerprint(), told)

    def _readable(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The pool's first different documents that have a text."""
        first: dict[str, Candidate] = {}
        for candidate in candidates:
            if candidate.document.text.strip():
                first.setdefault(candidate.id, candidate)
        return list(first.values())[: self.candidates]

    def _best(self, pool: Sequence[Candidate], told: Sequence[float]) -> tuple[Candidate, ...]:
        order = sorted(range(len(pool)), key=lambda place: -told[place])[: self.keep]
        return tuple(Candidate(pool[place].document, told[place], Channel.RERANKED) for place in order)
