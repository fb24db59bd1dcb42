"""What a reader is tuned to prefer: pairs of answers whose two sides may differ in evidence, image and words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from medrag_lightning.records.cases import Document
from medrag_lightning.records.outcomes import Condition


class Knowledge(StrEnum):
    """The two kinds of evidence of a heterogeneous corpus (HeteroRAG's k_r and k_d), and both together."""

    REPORTS = "reports"  # image-report pairs: documents with an image
    DOCUMENTS = "documents"  # texts without an image: articles, textbooks, guidelines
    BOTH = "both"


def knowledge_of(document: Document) -> Knowledge:
    """`reports` for a document with an image, `documents` for a text alone."""
    return Knowledge.DOCUMENTS if document.image is None else Knowledge.REPORTS


class PairKind(StrEnum):
    """What a preference pair teaches (HeteroRAG's HKPT; MMed-RAG's RAG-PT has the same three, RULE's KB-PT the last alone).

    The last kind teaches a query generator, not a reader (HeteroRAG's MQG).
    """

    CROSS_MODALITY = "cross_modality"  # look at the image: the same answer with the right image, not with another
    UTILISATION = "knowledge_utilisation"  # use evidence: the answer with it, not the wrong one without it
    ROBUSTNESS = "knowledge_robustness"  # resist evidence: the answer without it, not the wrong one with it
    SEARCH_WORDING = "search_wording"  # search so: the queries that found support, not those that did not


@dataclass(frozen=True, slots=True)
class PreferenceSide:
    """One side of a pair: what the reader is shown, and an answer to it.

    Attributes:
        condition: evidence and image.
        answer: the words that follow the prompt.
        reference_nats: log-probability of the answer under the reader before tuning, summed over its tokens (end of turn
            included); None where it is not stored.
        tokens: of the answer, end of turn included; 0 where it is not known.
    """

    condition: Condition
    answer: str
    reference_nats: float | None = None
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Preference:
    """A pair to tune on. `knowledge`: the evidence it is about, None for `cross_modality`. `weight`: its share in a loss."""

    id: str
    query_id: str
    kind: PairKind
    knowledge: Knowledge | None
    chosen: PreferenceSide
    rejected: PreferenceSide
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.chosen.condition == self.rejected.condition and self.chosen.answer == self.rejected.answer:
            raise ValueError(
                f"pair {self.id!r} of query {self.query_id!r}: both sides show the same and say the same "
                f"({self.chosen.answer!r}): its margin is zero by construction, and it would train nothing"
            )
        if not self.weight > 0:
            raise ValueError(f"pair {self.id!r}: weight must be positive, got {self.weight}")
