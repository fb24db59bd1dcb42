"""Inconsistent retrieval: queries whose candidates, read one by one, lead the reader to different answers.

Source: JOMED, "Metrics and analysis": the subset on which better retrieval can change an answer. Whose candidates
define it is a parameter, since the systems compared on it differ in just that. A system whose own candidates disagree does
worse there than elsewhere by construction: a gain on the subset is no gain over all questions, which stand beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medrag_lightning.metrics import vqa
from medrag_lightning.metrics.bootstrap import Bootstrap, Metric, Statistic, weighted_mean
from medrag_lightning.metrics.compared import Compared, compare
from medrag_lightning.metrics.parsing import label_of, normalise_answer
from medrag_lightning.records import AnswerType, Prediction

Scorer = Callable[[Sequence[Prediction]], Statistic]
PARTS = ("inconsistent", "consistent")
NO_CANDIDATES = "candidates were not read one by one (all evidence stood in one prompt)"


@dataclass(frozen=True, slots=True)
class Inconsistency:
    """How much retrieval is inconsistent, and how every system does on that subset and off it.

    Attributes:
        defining: the system whose candidates define the subset.
        share: share of inconsistent queries, by answer type.
        parts: ``inconsistent`` and ``consistent``, each by metric, then by system.
        reason: why there is nothing; empty otherwise.
    """

    defining: str
    share: Mapping[AnswerType, Metric]
    parts: Mapping[str, Mapping[str, Mapping[str, Compared]]]
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "defined_by": self.defining,
            "share": {str(kind): metric.as_json() for kind, metric in self.share.items()},
            "parts": {
                part: {name: {system: one.as_json() for system, one in rows.items()} for name, rows in metrics.items()}
                for part, metrics in self.parts.items()
            },
            "reason": self.reason,
        }


def is_inconsistent(prediction: Prediction) -> bool | None:
    """Whether the candidates, read alone, give more than one distinct answer; an invalid one counts as one more.

    False with fewer than two candidates; None where they were not read alone.
    """
    if prediction.cited and not prediction.candidate_answers:
        return None
    form = label_of if prediction.answer_type is AnswerType.CLOSED else normalise_answer
    return len({None if answer is None else form(answer) for answer in prediction.candidate_answers}) > 1


def inconsistency(
    systems: Mapping[str, Sequence[Prediction]], defining: str, clusters: Mapping[str, str], settings: Bootstrap
) -> Inconsistency:
    """The subset that `defining` defines, and accuracy and macro-F1 (closed), token recall (open) on it and off it."""
    if defining not in systems:
        return Inconsistency(defining, {}, {}, f"no predictions of {defining!r}, which defines the subset")
    told = {p.query_id: is_inconsistent(p) for p in systems[defining]}
    if any(verdict is None for verdict in told.values()):
        return Inconsistency(defining, {}, {}, NO_CANDIDATES)
    share = {}
    for kind in AnswerType:
        of_kind = [p.query_id for p in systems[defining] if p.answer_type is kind]
        if of_kind:
            values = [float(told[name] or False) for name in of_kind]
            share[kind] = settings.metric(weighted_mean(values), [clusters[name] for name in of_kind])
    parts = {}
    for part, wanted in zip(PARTS, (True, False), strict=True):
        subset = {name: [p for p in mine if told.get(p.query_id) is wanted] for name, mine in systems.items()}
        parts[part] = {name: _rows(subset, *SCORES[name], clusters, settings) for name in SCORES}
    return Inconsistency(defining, share, parts)


def _rows(
    systems: Mapping[str, Sequence[Prediction]],
    kind: AnswerType,
    scorer: Scorer,
    clusters: Mapping[str, str],
    settings: Bootstrap,
) -> dict[str, Compared]:
    items = {name: {p.query_id: p for p in mine if p.answer_type is kind} for name, mine in systems.items()}
    return compare(items, scorer, clusters, settings) if any(items.values()) else {}


def _accuracy(predictions: Sequence[Prediction]) -> Statistic:
    return vqa.accuracy([p.gold or "" for p in predictions], [p.answer for p in predictions])


def _macro_f1(predictions: Sequence[Prediction]) -> Statistic:
    return vqa.macro_f1([p.gold or "" for p in predictions], [p.answer for p in predictions])


def _token_recall(predictions: Sequence[Prediction]) -> Statistic:
    return weighted_mean(vqa.token_recall([p.gold or "" for p in predictions], [p.answer for p in predictions]))


SCORES: dict[str, tuple[AnswerType, Scorer]] = {
    "closed_accuracy": (AnswerType.CLOSED, _accuracy),
    "closed_macro_f1": (AnswerType.CLOSED, _macro_f1),
    "open_token_recall": (AnswerType.OPEN, _token_recall),
}
