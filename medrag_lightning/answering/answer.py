"""What an answerer gives back: the answer, how sure it is, what it rests on, and what to be wary of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medrag_lightning.metrics import is_inconsistent
from medrag_lightning.records import AnswerType, Candidate, Channel, Prediction

NO_EVIDENCE = "no evidence was found: the answer rests on the question and its image alone"


@dataclass(frozen=True, slots=True)
class Citation:
    """A candidate that was shown to the reader. `weight`: its share in the answer, None where all stood in one prompt;
    `alone`: the answer that it alone leads to, None where that is invalid or not known.
    """

    document_id: str
    text: str
    source: str
    license: str
    channel: Channel
    score: float
    weight: float | None
    alone: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with its grounds.

    Attributes:
        text: the answer; None where the reader's words fit no choice, or there were none.
        choices: the closed answers that were allowed; empty for an open question.
        logp_nats: log-probability of each choice, normalised over the choices.
        citations: the candidates, best first.
        warnings: what to be wary of, in words.
        prediction: everything else, as the verb `test` keeps it.
    """

    text: str | None
    choices: tuple[str, ...]
    logp_nats: tuple[float, ...]
    citations: tuple[Citation, ...]
    warnings: tuple[str, ...]
    prediction: Prediction

    @classmethod
    def of(cls, prediction: Prediction, candidates: Sequence[Candidate], low_margin: float) -> Answer:
        """The answer that a prediction from `candidates` amounts to."""
        citations = tuple(_citation(prediction, candidates[k], k) for k in range(len(candidates)))
        return cls(
            prediction.answer,
            prediction.choices,
            prediction.logp_nats,
            citations,
            tuple(_warnings(prediction, citations, low_margin)),
            prediction,
        )


def _citation(prediction: Prediction, candidate: Candidate, k: int) -> Citation:
    document = candidate.document
    return Citation(
        document.id,
        document.text,
        document.source,
        document.license,
        candidate.channel,
        candidate.score,
        prediction.weights[k] if prediction.weights else None,
        prediction.candidate_answers[k] if prediction.candidate_answers else None,
    )


def _warnings(prediction: Prediction, citations: Sequence[Citation], low_margin: float) -> list[str]:
    found = []
    if not citations:
        found.append(NO_EVIDENCE)
    if prediction.answer is None:
        what = "fit none of the choices" if prediction.answer_type is AnswerType.CLOSED else "are missing"
        found.append(f"the reader's words {what}: {prediction.raw!r}")
    ranked = sorted(zip(prediction.logp_nats, prediction.choices, strict=True), reverse=True)
    if len(ranked) > 1 and math.exp(ranked[0][0]) - math.exp(ranked[1][0]) < low_margin:
        close = ", ".join(f"{choice} {math.exp(logp):.2f}" for logp, choice in ranked[:2])
        found.append(f"the two likeliest answers are close: {close}")
    if is_inconsistent(prediction):
        found.append("the candidates, read alone, lead to different answers")
    if unlicensed := [citation.document_id for citation in citations if not citation.license]:
        found.append(f"the licence of {', '.join(unlicensed)} is not known")
    return found
