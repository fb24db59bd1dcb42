"""Predictions sorted into systems: one row each in every table, by name and in one order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from medrag_lightning.metrics import vqa
from medrag_lightning.metrics.controls import MAJORITY, QUESTION_ONLY
from medrag_lightning.records import AnswerType, Prediction, Regime

RETRIEVED = "retrieved"
SYSTEM_NAMES = {
    Regime.RETRIEVED: RETRIEVED,
    Regime.NONE: "no retrieval",
    Regime.RANDOM: "random retrieval",
    Regime.ORACLE: "oracle",
    Regime.POISONED: "poisoned",
}
NO_RETRIEVAL = SYSTEM_NAMES[Regime.NONE]
SYSTEM_ORDER = (*SYSTEM_NAMES.values(), QUESTION_ONLY, MAJORITY)
NOT_TOLD = "needs the regime `none` among data.regimes: what the reader answers without evidence"
UNDISTILLED = ("undistilled", "contrastive")  # names of a rival that stands for retrieval before the reader taught it


def system_of(prediction: Prediction) -> str:
    """The row that a prediction belongs to: a control's name, a rival retriever's, or its evidence regime in words."""
    return str(prediction.extra.get("system") or prediction.system or SYSTEM_NAMES[prediction.regime])


def ordinary(predictions: Iterable[Prediction]) -> list[Prediction]:
    """The predictions whose evidence nobody spoilt on purpose."""
    return [p for p in predictions if p.is_ordinary]


def by_system(predictions: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    """The predictions of each system by query id: the retrieved one, its rivals, the other regimes, the controls.

    Those of spoilt evidence are left out: they belong to the curves of `noise` and to no ordinary row.

    Raises:
        ValueError: a system answers one query twice.
    """
    found: dict[str, dict[str, Prediction]] = defaultdict(dict)
    for p in ordinary(predictions):
        name = system_of(p)
        if p.query_id in found[name]:
            raise ValueError(f"system {name!r} answers query {p.query_id!r} more than once")
        found[name][p.query_id] = p
    place = {name: float(i) for i, name in enumerate(SYSTEM_ORDER)}
    names = sorted(found, key=lambda name: (place.get(name, 0.5), name))
    return {name: [found[name][query_id] for query_id in sorted(found[name])] for name in names}


def defining_system(systems: Sequence[str], asked: str | None = None) -> str:
    """The system whose candidates say which retrieval is inconsistent: `asked`, or else the undistilled rival, or `retrieved`.

    Raises:
        ValueError: there is no system called `asked`.
    """
    if asked is not None:
        if asked not in systems:
            raise ValueError(f"inconsistent_by={asked!r} is no system of this test; the systems are {list(systems)}")
        return asked
    return next((name for name in UNDISTILLED if name in systems), RETRIEVED)


def answer_correct(prediction: Prediction, answer: str | None) -> bool | None:
    """Whether `answer` would be right: the same class (closed), the same normalised text (open); None without a gold answer."""
    if prediction.gold is None:
        return None
    score = vqa.correct if prediction.answer_type is AnswerType.CLOSED else vqa.exact_match
    return bool(score([prediction.gold], [answer])[0])


def item_correct(prediction: Prediction) -> bool | None:
    """Whether the answer is right; None without a gold answer."""
    return answer_correct(prediction, prediction.answer)
