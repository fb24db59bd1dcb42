"""Several rankings of one corpus as one: reciprocal-rank fusion."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import CandidateSource, OpenImage
from medrag_lightning.records import Candidate, Channel, Document, Query, Retrieved

PART_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
Ranks = dict[str, int]
"""A document's place in each part that found it, from 1."""


class HybridSearch:
    """The documents that stand highest in several rankings: score sum_p w_p / (k + rank_p) (Cormack et al., SIGIR 2009; H08).

    Every part searches the whole corpus in a folder of its own. A document that a part did not find adds nothing there; of
    equal scores the one that an earlier part named first comes first. The leak rule is that of the parts.

    Args:
        parts: what ranks the corpus, by a name of your choice: ``{words: LexicalSearch, meaning: LiveSearch}``. The deeper they
            search, the more documents the two can agree on.
        top: candidates of a query.
        k: how little the first places count more than those that follow.
        weights: how much each part counts; null for 1 each. A part that is not named counts 1.
    """

    def __init__(
        self, parts: dict[str, CandidateSource], top: int, k: float = 60.0, weights: dict[str, float] | None = None
    ) -> None:
        if len(parts) < 2:
            raise ValueError(f"HybridSearch needs at least two parts, got {list(parts)}; use the one part alone")
        for name in parts:
            if not PART_NAME.fullmatch(name):
                raise ValueError(f"HybridSearch names a folder after each part: {name!r} must be letters, digits, - or _")
        if top < 1 or not (math.isfinite(k) and k >= 0):
            raise ValueError(f"HybridSearch needs top >= 1 and k >= 0, got top={top}, k={k}")
        for name, weight in (weights or {}).items():
            if name not in parts:
                raise ValueError(f"HybridSearch: weights names {name!r}, which is no part; the parts are {list(parts)}")
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(f"HybridSearch: the weight of {name!r} must be above 0, got {weight}; leave the part out")
        self.parts, self.top, self.k = parts, top, k
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in parts}
        self._ranked: tuple[tuple[Query, ...], list[dict[str, Ranks]]] = ((), [])

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Prepares every part."""
        for name, part in self.parts.items():
            part.prepare(documents, open_image, folder / name)

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Loads every part."""
        for name, part in self.parts.items():
            part.load(documents, open_image, folder / name)
        self._ranked = ((), [])

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        """The `top` documents of each query, best first; the score is the sum of reciprocal ranks."""
        provenance = self.fingerprint()
        named: list[dict[str, Document]] = [{} for _ in queries]
        ranks: list[dict[str, Ranks]] = [{} for _ in queries]
        for name, part in self.parts.items():
            for place, one in enumerate(part.retrieve(queries)):
                different = {candidate.id: candidate.document for candidate in one.candidates}
                for rank, (found, document) in enumerate(different.items(), start=1):
                    named[place].setdefault(found, document)
                    ranks[place].setdefault(found, {})[name] = rank
        self._ranked = tuple(queries), ranks
        return [
            Retrieved(query.id, tuple(self._best(documents, told)), provenance)
            for query, documents, told in zip(queries, named, ranks, strict=True)
        ]

    def ranks(self, queries: Sequence[Query], ids: Sequence[Sequence[str]]) -> list[list[Ranks]]:
        """For each query and each of its documents, the document's place in every part that found it."""
        if self._ranked[0] != tuple(queries):
            self.retrieve(queries)
        return [[dict(told.get(name, {})) for name in names] for told, names in zip(self._ranked[1], ids, strict=True)]

    def fingerprint(self) -> str:
        """Those of the parts, their weights, k and top."""
        told = [[name, part.fingerprint(), self.weights[name]] for name, part in self.parts.items()]
        return fingerprint("hybrid", told, [self.top, self.k])

    def _best(self, documents: dict[str, Document], ranks: dict[str, Ranks]) -> list[Candidate]:
        scored = {
            name: sum(self.weights[part] / (self.k + rank) for part, rank in told.items()) for name, told in ranks.items()
        }
        order = sorted(scored, key=lambda name: -scored[name])[: self.top]
        return [Candidate(documents[name], scored[name], Channel.HYBRID) for name in order]
