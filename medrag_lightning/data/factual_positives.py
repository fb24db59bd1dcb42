"""Reports that state nearly the same as another (FactMM-RAG: Sun et al., arXiv 2407.15268), without comparing all with all.

Reports with equal facts are one group, however many they are; groups are joined by an inverted index over their rarest facts
(prefix filter: Chaudhuri et al., ICDE 2006; Bayardo et al., WWW 2007). Documents of two joined groups are positives of each
other, except those of one patient, study or image, and a document is never its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from medrag_lightning.records import Document

TRIES = 16
ROWS_AT_ONCE, PAIRS_AT_ONCE = 2048, 1 << 20
SLACK = 1e-9  # of thresholds: 2/3 is 0.6666666666666666


def fact_f1(mine: frozenset[str], other: frozenset[str]) -> float:
    """2 |both| / (|mine| + |other|); 0 where one states nothing."""
    return 2 * len(mine & other) / (len(mine) + len(other)) if mine and other else 0.0


class FactualPositives:
    """The factual positives of each document of a corpus, by its place.

    Args:
        documents: the corpus.
        facts: what each of them states; those with fewer than `min_facts` have no positives.
        threshold: least F1 of two sets of facts, in (0, 1].
        min_facts: a report of one fact is like very many.
        same_patient: whether documents of the same patient, study or image may be positives.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        facts: Sequence[frozenset[str]],
        threshold: float,
        min_facts: int = 1,
        same_patient: bool = False,
    ) -> None:
        assert len(documents) == len(facts)
        self.threshold, self.same_patient = threshold, same_patient
        self._owner = [_owner(document, place, same_patient) for place, document in enumerate(documents)]
        numbers: dict[frozenset[str], int] = {}
        self.group = [numbers.setdefault(stated, len(numbers)) if len(stated) >= min_facts else -1 for stated in facts]
        self.sets = list(numbers)
        self.members: list[list[int]] = [[] for _ in self.sets]
        for place, group in enumerate(self.group):
            if group >= 0:
                self.members[group].append(place)
        self.near = joined(self.sets, threshold)
        self._owned = Counter((group, self._owner[place]) for place, group in enumerate(self.group) if group >= 0)

    def count(self, place: int) -> int:
        """How many positives a document has, without listing them."""
        if self.group[place] < 0:
            return 0
        owner = self._owner[place]
        return sum(len(self.members[near]) - self._owned[near, owner] for near in self.near[self.group[place]])

    def of(self, place: int) -> list[int]:
        """Places of all positives of a document, in corpus order."""
        if self.group[place] < 0:
            return []
        near = [other for group in self.near[self.group[place]] for other in self.members[group]]
        return sorted(other for other in near if self._owner[other] != self._owner[place])

    def draw(self, place: int, rng: np.random.Generator) -> int | None:
        """One of the positives of a document, each as likely as any other; None if it has none."""
        if not self.count(place):
            return None
        groups = self.near[self.group[place]]
        ends = np.cumsum([len(self.members[group]) for group in groups])
        for _ in range(TRIES):
            at = int(rng.integers(int(ends[-1])))
            part = int(np.searchsorted(ends, at, side="right"))
            other = self.members[groups[part]][at - int(ends[part])]
            if self._owner[other] != self._owner[place]:
                return other
        every = self.of(place)  # nearly all are its own patient's
        return every[int(rng.integers(len(every)))]

    def statistics(self) -> dict[str, Any]:
        """Counts, as plain JSON."""
        counts = np.array([self.count(place) for place in range(len(self.group))] or [0])
        sizes = [len(self.sets[group]) for group in self.group if group >= 0]
        return {
            "documents": len(self.group),
            "with_facts": len(sizes),
            "different_sets": len(self.sets),
            "facts_a_document": round(float(np.mean(sizes)), 2) if sizes else 0.0,
            "with_positives": int((counts > 0).sum()),
            "positives_median": int(np.median(counts)),
            "positives_most": int(counts.max()),
        }


def joined(sets: Sequence[frozenset[str]], threshold: float) -> list[list[int]]:
    """For each set the places of those, itself among them, whose F1 with it is at least `threshold`.

    Two sets with F1 >= t share at least ``t |A| / (2 - t)`` facts of either, so they share one of the
    ``|A| - ceil(t |A| / (2 - t)) + 1`` rarest facts of each: only these are looked up.
    """
    often = Counter(fact for one in sets for fact in one)
    number = {fact: place for place, (fact, _) in enumerate(sorted(often.items(), key=lambda one: (one[1], one[0])))}
    ordered = [sorted(number[fact] for fact in one) for one in sets]  # the rarest first
    least = [math.ceil(threshold * len(one) / (2 - threshold) - SLACK) for one in ordered]
    stated = _table(ordered, len(number))
    rare = _table([one[: len(one) - few + 1] for one, few in zip(ordered, least, strict=True)], len(number))
    size_N = np.array([len(one) for one in ordered])
    near: list[list[int]] = [[place] for place in range(len(sets))]
    for start in range(0, len(sets), ROWS_AT_ONCE):
        met = (rare[start : start + ROWS_AT_ONCE] @ rare[: start + ROWS_AT_ONCE].T).tocoo()
        mine, other = met.row.astype(np.int64) + start, met.col.astype(np.int64)
        small, large = np.minimum(size_N[mine], size_N[other]), np.maximum(size_N[mine], size_N[other])
        worth = np.flatnonzero((other < mine) & (2 * small >= (threshold - SLACK) * (small + large)))
        for part in np.array_split(worth, len(worth) // PAIRS_AT_ONCE + 1):
            a, b = mine[part], other[part]
            both = np.asarray(stated[a].multiply(stated[b]).sum(axis=1)).ravel()
            alike = 2 * both >= (threshold - SLACK) * (size_N[a] + size_N[b])
            for one, two in zip(a[alike].tolist(), b[alike].tolist(), strict=True):
                near[one].append(two)
                near[two].append(one)
    return [sorted(one) for one in near]


def _table(rows: Sequence[Sequence[int]], width: int) -> Any:
    """A sparse matrix with a 1 for each number of each row."""
    ends = np.cumsum([0, *map(len, rows)])
    numbers = np.fromiter((number for row in rows for number in row), np.int64, int(ends[-1]))
    return sparse.csr_matrix((np.ones(len(numbers), np.int32), numbers, ends), shape=(len(rows), width))


def _owner(document: Document, place: int, same_patient: bool) -> Hashable:
    """What must not be its own positive: the patient, else the study, else the image, else the document."""
    for kind, value in (("patient", document.patient_id), ("study", document.study_id), ("image", document.image)):
        if not same_patient and value is not None:
            return kind, value
    return "document", place
