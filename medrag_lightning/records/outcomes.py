"""What a reader was shown and what it made of it: conditions, noise, scores, predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from medrag_lightning.records.cases import AnswerType, Channel, Regime

ABLATED = "without "
"""How the name of a system begins that is the run's own with a part of the corpus taken from its evidence."""


class ImageShown(StrEnum):
    """Which image a condition shows in the query's place."""

    OWN = "own"
    NONE = "none"
    OTHER = "other"  # the image of another query or document, named by `Condition.image_of`
    CORRUPTED = "corrupted"  # its own, changed on purpose as `Condition.corruption` says


@dataclass(frozen=True, slots=True)
class Condition:
    """What a reader is shown with a query when it is scored: some evidence in one prompt, and an image.

    Attributes:
        evidence_ids: documents in the prompt, in order; empty for none.
        image: which image stands in the query's place.
        image_of: id of the query or document whose image is shown, for `other`; None otherwise.
        corruption: how the image was changed, for `corrupted` (name and settings as text); empty otherwise.
    """

    evidence_ids: tuple[str, ...] = ()
    image: ImageShown = ImageShown.OWN
    image_of: str | None = None
    corruption: str = ""

    def __post_init__(self) -> None:
        if (self.image is ImageShown.OTHER) != (self.image_of is not None):
            raise ValueError(f"image_of={self.image_of!r} does not fit image {str(self.image)!r}")
        if (self.image is ImageShown.CORRUPTED) != bool(self.corruption):
            raise ValueError(f"corruption={self.corruption!r} does not fit image {str(self.image)!r}")


class NoiseKind(StrEnum):
    """How evidence is spoilt on purpose, to see how much a system depends on it."""

    IRRELEVANT = "irrelevant"  # a share of the candidates is replaced by random documents
    CONTRADICTING = "contradicting"  # ... by documents that speak for another answer
    DUPLICATED = "duplicated"  # ... by copies of another candidate
    BLANK_IMAGE = "blank_image"  # the query's image is plain grey


@dataclass(frozen=True, slots=True)
class Noise:
    """A kind of noise, and the share of the candidates (``blank_image``: of the queries) that it replaces, in [0, 1]."""

    kind: NoiseKind
    share: float


class Variant(StrEnum):
    """What is taken from a system, or exchanged, to see what its reader relies on (HeteroRAG's MD, KUD and KID)."""

    OTHER_IMAGE = "other_image"  # another image in the query's place, the same evidence
    OTHER_IMAGE_ALONE = "other_image_alone"  # another image, and no evidence
    WITHOUT_REPORTS = "without_reports"  # evidence without its image-report pairs
    WITHOUT_DOCUMENTS = "without_documents"  # evidence without its texts


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a frozen reader finds each answer to a query under a condition: one row of the score table.

    Attributes:
        query_id: the query.
        condition: what was shown.
        answers: what was scored: the choices of a closed question, or the gold answer alone of an open one.
        logp_nats: log-probability of each answer, summed over its tokens (end of turn included); not normalised over answers.
        token_counts: tokens of each answer, to normalise by length.
        gold_index: position of the gold answer among `answers`; -1 where unknown.
        generated: the reader's own words, where asked for.
        correct: whether the most likely choice (closed) or the words (open) are right; None where unknown.
    """

    query_id: str
    condition: Condition
    answers: tuple[str, ...]
    logp_nats: tuple[float, ...]
    token_counts: tuple[int, ...]
    gold_index: int = -1
    generated: str | None = None
    correct: bool | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the system answered to one query under one evidence regime.

    Attributes:
        query_id: the query.
        regime: what evidence was shown.
        answer: the parsed answer; None when the reader's output was invalid.
        raw: the reader's own words (closed questions that were scored: the best choice).
        gold: the gold answer, None where unknown.
        answer_type: closed or open.
        choices: the closed answers, in order.
        logp_nats: for closed questions, log-probability of each choice, normalised over the choices.
        cited: ids of the candidates in the prompt or in the mixture, best first.
        weights: mixture weight of each cited candidate; empty when all stood in one prompt.
        need: copied from the query.
        question: the question's text.
        scores: retrieval score of each cited candidate.
        channels: the channel that found each cited candidate.
        candidate_logp_nats: for mixtures, a row for each cited candidate, read alone: log-probability of each choice,
            normalised over the choices (closed), or of the gold answer alone, per token (open; empty without one).
        candidate_answers: for mixtures, the answer that each cited candidate alone would give; None where invalid.
        system: name of the retriever where several are compared; empty for the run's own.
        gold_logp_nats: log-probability of the gold answer: of its choice (closed), a token (open); None where unknown.
        gold_tokens: tokens of the gold answer of an open question; 0 where unknown or closed.
        noise: how the evidence was spoilt on purpose; None in the ordinary case.
        variant: what was taken away or exchanged on purpose; None in the ordinary case.
        dropped: ids of the candidates that were not shown because the prompt was too long, the lowest-ranked first.
    """

    query_id: str
    regime: Regime
    answer: str | None
    raw: str
    gold: str | None
    answer_type: AnswerType
    choices: tuple[str, ...] = ()
    logp_nats: tuple[float, ...] = ()
    cited: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    need: str | None = None
    question: str = ""
    scores: tuple[float, ...] = ()
    channels: tuple[Channel, ...] = ()
    candidate_logp_nats: tuple[tuple[float, ...], ...] = ()
    candidate_answers: tuple[str | None, ...] = ()
    system: str = ""
    gold_logp_nats: float | None = None
    gold_tokens: int = 0
    noise: Noise | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    variant: Variant | None = None
    dropped: tuple[str, ...] = ()

    @property
    def is_ordinary(self) -> bool:
        """Whether the system was asked as it is meant to be: no noise, nothing taken away."""
        return self.noise is None and self.variant is None
