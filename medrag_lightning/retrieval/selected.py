"""As many candidates of another source as a rule finds worth reading (HeteroRAG's adaptive number of reports)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import CandidateSource, OpenImage, Refreshable, Retriever, SimilaritySource, VectorSource
from medrag_lightning.records import Candidate, Channel, Document, Query, Retrieved
from medrag_lightning.retrieval.store import Side
from medrag_lightning.selection import OF_THE_WHOLE_LIST, Selection


class SelectedSearch:
    """The first of a pool's candidates, how many being chosen for each query by `rule`.

    Scores of different channels cannot be compared: each channel's candidates are a list of their own, of which the rule keeps
    a beginning. A query for which the pool finds something keeps at least one candidate. The rules ``first_k`` and
    ``calibrated`` take the beginning of the whole list, in the pool's order.

    Args:
        pool: finds the candidates, at least `rule.k` a channel for the rule to choose from.
        rule: how many are kept.
    """

    def __init__(self, pool: CandidateSource, rule: Selection = Selection()) -> None:  # noqa: B008  (frozen)
        self.pool, self.rule = pool, rule

    @property
    def corpus(self) -> str:
        """The pool's name of its corpus, if it has one."""
        return str(getattr(self.pool, "corpus", ""))

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Prepares the pool."""
        self.pool.prepare(documents, open_image, folder)

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Loads the pool."""
        self.pool.load(documents, open_image, folder)

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        """What is kept of the pool's candidates, in its order; ValueError where the rule cannot be applied to the scores."""
        provenance = self.fingerprint()
        self.rule.check(self.pool.fingerprint())
        return [Retrieved(one.query_id, self._kept(one), provenance) for one in self.pool.retrieve(queries)]

    def similarities(
        self, queries: Sequence[Query], ids: Sequence[Sequence[str]], channels: Sequence[Channel]
    ) -> list[NDArray[np.float32]]:
        """The pool's; NaN where it tells none."""
        if isinstance(self.pool, SimilaritySource):
            return self.pool.similarities(queries, ids, channels)
        return [np.full((len(names), len(channels)), np.nan, np.float32) for names in ids]

    def fused_scores(self, queries: Sequence[Query], ids: Sequence[Sequence[str]]) -> list[list[float]]:
        """f of documents beside the pool's candidates; NaN where the pool fuses nothing."""
        if hasattr(self.pool, "fused_scores"):
            told: list[list[float]] = self.pool.fused_scores(queries, ids)
            return told
        return [[float("nan")] * len(names) for names in ids]

    def document_vectors(self, side: Side, ids: Sequence[str]) -> NDArray[np.float32]:
        """The pool's; ValueError where it knows none."""
        if not isinstance(self.pool, VectorSource):
            raise ValueError(f"the pool of SelectedSearch: {type(self.pool).__name__} knows no vectors; use LiveSearch")
        return self.pool.document_vectors(side, ids)

    def refresh(self, encoder: Retriever) -> None:
        """Refreshes the pool; ValueError where it cannot be."""
        if not isinstance(self.pool, Refreshable):
            told = f"{type(self.pool).__name__} cannot have its vectors made anew; use LiveSearch"
            raise ValueError(f"the pool of SelectedSearch: {told}")
        self.pool.refresh(encoder)

    def fingerprint(self) -> str:
        """Pool and rule."""
        return fingerprint("selected", self.pool.fingerprint(), self.rule.fingerprint())

    def _kept(self, found: Retrieved) -> tuple[Candidate, ...]:
        if self.rule.rule in OF_THE_WHOLE_LIST:
            return found.candidates[: self.rule.count([candidate.score for candidate in found.candidates])]
        by_channel: dict[Channel, list[int]] = {}
        for place, candidate in enumerate(found.candidates):
            by_channel.setdefault(candidate.channel, []).append(place)
        kept: list[int] = []
        for channel, places in by_channel.items():
            try:
                kept += places[: self.rule.count([found.candidates[place].score for place in places])]
            except ValueError as error:
                raise ValueError(f"query {found.query_id!r}, channel {channel}: {error}") from error
        return tuple(found.candidates[place] for place in sorted(kept))
