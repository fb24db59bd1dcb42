"""Which pairs of a corpus state the same, and what a retriever makes of it (FactMM-RAG: Sun et al., arXiv 2407.15268)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medrag_lightning.artifacts import write_json
from medrag_lightning.batches import StatedFacts
from medrag_lightning.data.factual_positives import FactualPositives
from medrag_lightning.interfaces import FactExtractor
from medrag_lightning.records import Document

logger = logging.getLogger(__name__)


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class FactualPlan:
    """Pairs whose texts state nearly the same are right answers of each other.

    Every run with such a plan reports recall where factual twins count as right, beside recall where copies alone do.

    Args:
        extractor: tells what a text states.
        threshold: least F1 of two texts' facts, in (0, 1].
        min_facts: texts with fewer facts are like no other.
        in_batch: whether twins that meet in a training batch are positives of each other, instead of pushed apart.
        swap_share: share of the training samples that show their image with the text of another patient's twin, drawn anew in
            each epoch (FactMM-RAG trains on such pairs).
        same_patient: whether the twin may be of the same patient, study or image.
        statistics: file for the counts; null for the log alone.
    """

    extractor: FactExtractor
    threshold: float = 0.75
    min_facts: int = 2
    in_batch: bool = True
    swap_share: float = 0.0
    same_patient: bool = False
    statistics: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1 or not 0 <= self.swap_share <= 1 or self.min_facts < 1:
            got = f"{self.threshold}, {self.swap_share} and {self.min_facts}"
            raise ValueError(
                "pairs.factual: threshold must lie in (0, 1], swap_share in [0, 1] and min_facts be at least 1, got " + got
            )

    def stated(self, documents: Sequence[Document]) -> list[frozenset[str]]:
        """What each document states; nothing where it is fewer than `min_facts`. ValueError if that is nowhere enough."""
        found = [facts if len(facts) >= self.min_facts else frozenset() for facts in self.extractor.facts(documents)]
        if not any(found):
            name = type(self.extractor).__name__
            raise ValueError(
                f"pairs.factual: {name} finds {self.min_facts} facts in none of {len(documents)} texts; name other terms, or "
                "lower min_facts"
            )
        return found

    def numbered(self, stated: Sequence[frozenset[str]]) -> list[StatedFacts]:
        """The facts as numbers, in rows of equal length; a fact of one text alone has a number, too: it lowers F1."""
        often = Counter(fact for facts in stated for fact in facts)
        number = {fact: place for place, (fact, _) in enumerate(sorted(often.items()))}
        width = max(map(len, stated), default=0)
        rows = np.full((len(stated), width), -1, np.int64)
        for row, facts in zip(rows, stated, strict=True):
            row[: len(facts)] = sorted(number[fact] for fact in facts)
        return [StatedFacts(row, self.threshold, self.in_batch) for row in rows]

    def positives(self, documents: Sequence[Document], stated: Sequence[frozenset[str]]) -> FactualPositives:
        """The factual positives among training documents, counted in the log and in the file `statistics`."""
        found = FactualPositives(documents, stated, self.threshold, self.min_facts, self.same_patient)
        told = found.statistics()
        logger.info(
            "factual positives (F1 >= %g): %d of %d training pairs have some, %d of another patient at the median",
            self.threshold,
            told["with_positives"],
            told["documents"],
            told["positives_median"],
        )
        if self.statistics is not None:
            write_json(Path(self.statistics), {"threshold": self.threshold, **told})
        return found
