"""What an answerer gives back: the answer, how sure it is, what it rests on, and what to be wary of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medrag_lightning.metrics import is_inconsistent
from medrag_lightning.records import AnswerType, Candidate, Channel, Prediction, Searches, WrittenSearches

NO_WORDS = "the reader's words fit none of the choices"
NO_ANSWER = "the reader gave no words"
NO_THRESHOLD_FOR_WORDS = "no probability is known for free text, so the threshold for abstaining does not apply to it"
NO_EVIDENCE = "no evidence was found: the answer rests on the question and its image alone"
ASKED_WITH_THE_QUESTION = "; so every corpus was asked with the question itself"


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
    origin: str = ""


@dataclass(frozen=True, slots=True)
class KeptEvidence:
    """What a trace keeps of a piece of evidence: its number in the prompt, from 1, its document, the words that it quotes."""

    number: int
    document_id: str
    text: str


@dataclass(frozen=True, slots=True)
class AnswerTrace:
    """How an answer came about, step by step; None where a step could not be read (`text` has all that was written)."""

    text: str
    kept: tuple[KeptEvidence, ...]
    initial: str | None
    rethink: str | None
    final: str | None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with its grounds. Printed, it is a few lines to read; `to_json` gives it as plain JSON.

    Attributes:
        text: the answer; None where the reader's words fit no choice, or there were none. Also there when the system abstains.
        choices: the closed answers that were allowed; empty for an open question.
        logp_nats: log-probability of each choice, normalised over the choices.
        citations: the candidates, best first; with a trace, those that it keeps, in its order.
        warnings: what to be wary of, in words.
        prediction: everything else, as the verb `test` keeps it.
        probability: of `text` among the choices; None for free text, and where the words fit no choice.
        abstained: whether the system declines to answer: `probability` is under the threshold, or there is no answer.
        reason: why it abstained, in words; empty where it did not.
        seconds: how long each step took: ``retrieve``, ``encode``, ``read``; before them ``rewrite``, ``write`` (generator);
            with a trace ``trace`` before reading it.
        guarantee: what is known of its risk, in words, where the system is calibrated; empty otherwise.
        searches: what each corpus was asked; one that is not there was left out. None: all were asked with the question.
        rewritten: what the question became with what was said before it, to search with; None where it was not rewritten.
        search_faults: what was wrong with the query generator's text, one sentence each; also among `warnings`.
        trace: how the reader came to it; None where it answers without one.
    """

    text: str | None
    choices: tuple[str, ...]
    logp_nats: tuple[float, ...]
    citations: tuple[Citation, ...]
    warnings: tuple[str, ...]
    prediction: Prediction
    probability: float | None = None
    abstained: bool = False
    reason: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    guarantee: str = ""
    searches: Searches | None = None
    search_faults: tuple[str, ...] = ()
    rewritten: str | None = None
    trace: AnswerTrace | None = None

    @classmethod
    def of(
        cls,
        prediction: Prediction,
        candidates: Sequence[Candidate],
        low_margin: float,
        abstain_below: float | None = None,
        seconds: Mapping[str, float] | None = None,
        searches: Searches | None = None,
        written: WrittenSearches | None = None,
    ) -> Answer:
        """The answer that a prediction from `candidates` amounts to.

        Args:
            prediction, candidates: the reader's answer, and what it was shown.
            low_margin, abstain_below: as of `Answerer`.
            seconds: of each step.
            searches: what the corpora were asked.
            written: the query generator's text, as it was read; None without a generator.
        """
        probability = probability_of(prediction)
        reason = _reason(prediction, probability, abstain_below)
        citations = tuple(_citation(prediction, candidates[k], k) for k in range(len(candidates)))
        return cls(
            prediction.answer,
            prediction.choices,
            prediction.logp_nats,
            citations,
            (*_search_warnings(written), *_warnings(prediction, citations, low_margin, abstain_below)),
            prediction,
            probability,
            bool(reason),
            reason,
            dict(seconds or {}),
            searches=searches,
            search_faults=() if written is None else written.faults,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; see `telling.answer_as_json`."""
        from medrag_lightning.answering.telling import answer_as_json

        return answer_as_json(self)

    def __str__(self) -> str:
        """A few lines to read; see `telling.answer_as_text`."""
        from medrag_lightning.answering.telling import answer_as_text

        return answer_as_text(self)


def probability_of(prediction: Prediction) -> float | None:
    """The probability of a closed question's answer among its choices, in [0, 1]; None where there is none."""
    if prediction.answer is None or prediction.answer not in prediction.choices or not prediction.logp_nats:
        return None
    return min(1.0, math.exp(prediction.logp_nats[prediction.choices.index(prediction.answer)]))


def _reason(prediction: Prediction, probability: float | None, abstain_below: float | None) -> str:
    if prediction.answer is None:
        return NO_WORDS if prediction.answer_type is AnswerType.CLOSED else NO_ANSWER
    if abstain_below is None or probability is None or probability >= abstain_below:
        return ""
    return f"its probability {probability:.3f} is below {abstain_below:g}, under which this system abstains"


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
        document.origin,
    )


def _search_warnings(written: WrittenSearches | None) -> list[str]:
    if written is None or not written.faults:
        return []
    ending = ASKED_WITH_THE_QUESTION if written.first() is None else ""
    return [f"what the query generator wrote is not as it should be: {'; '.join(written.faults)}{ending}"]


def _warnings(
    prediction: Prediction, citations: Sequence[Citation], low_margin: float, abstain_below: float | None
) -> list[str]:
    found = []
    if not citations:
        found.append(NO_EVIDENCE)
    if prediction.dropped:
        found.append(f"evidence that did not fit into the prompt and was not read: {', '.join(prediction.dropped)}")
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
    if abstain_below is not None and prediction.answer_type is AnswerType.OPEN:
        found.append(NO_THRESHOLD_FOR_WORDS)
    return found
