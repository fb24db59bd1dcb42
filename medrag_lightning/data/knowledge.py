"""What evidence and which image a question is shown with to find out what its reader relies on: settings shared by the score
table, by preference pairs, and by the metrics MD, KUD and KID (HeteroRAG, HKPT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from medrag_lightning.records import Document, Knowledge, knowledge_of

CounterImage = Literal["least_similar", "unrelated", "noise", "blank"]
"""The image v* in the place of a query's own. ``least_similar``: of the corpus images of the query's modality, the one that is
least like it (HeteroRAG). ``unrelated``: another patient's, drawn. ``noise``: N(0, 1), clipped (MMed-RAG). ``blank``: grey."""


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class KnowledgePlan:
    """Which sets of evidence K = {reports, documents} a question is read with, and which other image stands beside them.

    For each draw a number of reports and a number of documents are drawn from 0 to their maximum; the best retrieved ones are
    taken, some of them are exchanged for distractors, and the order is shuffled: pairs that always show one report, in one
    place, teach a reader to break on two.

    Args:
        draws: evidence sets of a query; equal ones count once.
        max_reports, max_documents: largest number of each in a set.
        sample: whether the numbers are drawn; else they are the largest.
        distractor_share: probability that a retrieved item of a set is exchanged for a random legal one of the same kind.
        shuffle: whether the order is drawn; else it is that of retrieval, reports before documents.
        counter_image: the other image v*.
        systems: whose answers `test` asks again with another image and with parts of the evidence: ``retrieved`` (the run's own
            candidates) and names of rivals. Empty for none.
        leave_out: corpora that `test` takes from the evidence, one row of results each, beside the ordinary one: names of
            corpora, ``reports``, ``documents`` (all texts), or ``each`` for all of these one by one (knowledge ablations).
    """

    draws: int = 1
    max_reports: int = 4
    max_documents: int = 4
    sample: bool = True
    distractor_share: float = 0.0
    shuffle: bool = True
    counter_image: CounterImage = "least_similar"
    systems: tuple[str, ...] = ("retrieved",)
    leave_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.draws < 1 or min(self.max_reports, self.max_documents) < 0 or self.max_reports + self.max_documents < 1:
            got = f"{self.draws}, {self.max_reports} and {self.max_documents}"
            raise ValueError(f"data.knowledge needs draws >= 1 and room for some evidence, got {got}")
        if not 0 <= self.distractor_share <= 1:
            raise ValueError(f"data.knowledge.distractor_share must lie in [0, 1], got {self.distractor_share}")


def without(ids: Sequence[str], documents: Mapping[str, Document], left_out: Knowledge) -> tuple[str, ...]:
    """The evidence `ids`, in order, without the kind that is left out (`both`: nothing remains)."""
    if left_out is Knowledge.BOTH:
        return ()
    return tuple(name for name in ids if knowledge_of(documents[name]) is not left_out)
