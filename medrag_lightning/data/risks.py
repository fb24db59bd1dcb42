"""What an answer can lose, as a number in [0, 1]: the risks that a calibration may control."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from medrag_lightning.data.judging import OPEN_METRICS
from medrag_lightning.records import AnswerType, Query

RiskName = Literal["error", "hallucinated_finding", "missed_finding", "doubt", "lost_words"]


@dataclass(frozen=True, slots=True)
class Said:
    """What was answered to a question.

    `answer`: None where the words fit nothing; `probability`: of the answer among the choices, NaN for free text;
    `gold_probability`: of the gold answer among the choices, NaN for free text.
    """

    answer: str | None
    probability: float
    gold_probability: float


@dataclass(frozen=True)
class RiskSettings:
    """Which risk, and what it takes to say so.

    Args:
        name: ``error``: a wrong answer is 1. ``hallucinated_finding``: of questions that offer a positive answer which is not
            the right one, it is 1 to give it. ``missed_finding``: of questions whose right answer is a positive one, it is 1 to
            give one that is not. ``doubt``: 1 - probability of the right choice. ``lost_words``: 1 - `open_metric`.
        positive: answers that state a finding.
        open_metric, open_threshold: what makes free text right, for ``error`` (at least so much) and ``lost_words``.
    """

    name: RiskName = "error"
    positive: tuple[str, ...] = ("yes",)
    open_metric: Literal["exact_match", "token_f1", "rouge_l"] = "exact_match"
    open_threshold: float = 1.0

    def loss(self, query: Query, said: Said) -> float:
        """In [0, 1]; the question must be one that the risk `applies` to."""
        return _LOSS[self.name](self, query, said)

    def applies(self, query: Query) -> bool:
        """Whether the risk is defined for a question; where it is not, the question is left out, and counted."""
        if query.answer is None or not query.answer.strip():
            return False
        closed = query.answer_type is AnswerType.CLOSED
        if self.name == "error":
            return True
        if self.name == "lost_words":
            return not closed
        if self.name == "doubt":
            return closed and query.gold_index >= 0
        is_positive = self.states(query.answer)
        offered = closed and any(self.states(choice) for choice in query.choices)
        return offered and (is_positive if self.name == "missed_finding" else not is_positive)

    def states(self, answer: str | None) -> bool:
        """Whether an answer states a finding."""
        return answer is not None and answer.strip().casefold() in {one.casefold() for one in self.positive}


def _right_words(settings: RiskSettings, query: Query, said: Said) -> float:
    words = (said.answer or "").strip() or None
    return float(OPEN_METRICS[settings.open_metric]([str(query.answer)], [words])[0])


def _error(settings: RiskSettings, query: Query, said: Said) -> float:
    if query.answer_type is AnswerType.CLOSED:
        return float(said.answer is None or query.choices.index(said.answer) != query.gold_index)
    return float(_right_words(settings, query, said) < settings.open_threshold)


_LOSS: Mapping[str, Callable[[RiskSettings, Query, Said], float]] = {
    "error": _error,
    "hallucinated_finding": lambda settings, query, said: float(settings.states(said.answer)),
    "missed_finding": lambda settings, query, said: float(not settings.states(said.answer)),
    "doubt": lambda settings, query, said: min(max(1.0 - said.gold_probability, 0.0), 1.0),
    "lost_words": lambda settings, query, said: 1.0 - _right_words(settings, query, said),
}
