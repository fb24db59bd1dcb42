"""What spoilt evidence costs: curves over its share, by system and kind of noise, and how two systems' losses compare.

Source: MR-RAG spec, R20 and "Benchmark-weakness protocol" (noise curve, 0-50 % irrelevant documents). Every point of a curve is
of the same queries, those that every system answered at every share, so that points, systems and shares are compared in pairs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medrag_lightning.metrics.bootstrap import Bootstrap, Floats, Metric, Statistic, ratio
from medrag_lightning.metrics.compared import difference
from medrag_lightning.metrics.consistency import SCORES
from medrag_lightning.metrics.systems import by_system, ordinary, system_of
from medrag_lightning.records import AnswerType, NoiseKind, Prediction

HALF = 0.5
NO_LOSS = "{baseline} may lose nothing here (its loss is 0 or less in {share:.0%} of the resamples): no ratio"
Cells = Mapping[str, Mapping[float, Mapping[str, Prediction]]]
"""Of one kind of noise: predictions by system, share and query id; share 0 is the ordinary evidence."""


@dataclass(frozen=True, slots=True)
class NoisePoint:
    """One system under one noise: a metric, and its paired change from share 0 of the same queries (None at share 0)."""

    kind: NoiseKind
    share: float
    system: str
    metric: str
    value: Metric
    change: Metric | None

    def as_record(self) -> dict[str, Any]:
        """One flat record; numbers that could not be computed are None."""
        change = self.change or Metric.missing("")
        moved = {f"change_{name}": number for name, number in change.as_json().items() if name in ("low", "high")}
        head = {"kind": str(self.kind), "share": self.share, "system": self.system, "metric": self.metric}
        return {**head, **self.value.as_json(), "change": change.as_json()["value"], **moved}


@dataclass(frozen=True, slots=True)
class LossRatio:
    """How much of a baseline's loss a system loses: (its fall from share 0) / (the baseline's fall), on the same queries.

    Attributes:
        loss, baseline_loss: the falls themselves; positive where noise hurts.
        ratio: their ratio; without an interval where the baseline may lose nothing.
        beyond_half: loss minus half the baseline's loss. An interval below 0 says that the system loses less than half, and it
            holds where a ratio does not exist, too.
    """

    kind: NoiseKind
    share: float
    metric: str
    system: str
    baseline: str
    loss: Metric
    baseline_loss: Metric
    ratio: Metric
    beyond_half: Metric

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        head = {"kind": str(self.kind), "share": self.share, "metric": self.metric}
        numbers = {name: getattr(self, name).as_json() for name in ("loss", "baseline_loss", "ratio", "beyond_half")}
        return {**head, "system": self.system, "baseline": self.baseline, **numbers}


@dataclass(frozen=True, slots=True)
class NoiseCurves:
    """The points of all curves, the same of systems that no noise reaches (`references`), and the losses compared."""

    points: tuple[NoisePoint, ...]
    references: tuple[NoisePoint, ...]
    ratios: tuple[LossRatio, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "points": [point.as_record() for point in self.points],
            "references": [point.as_record() for point in self.references],
            "loss_ratios": [one.as_json() for one in self.ratios],
            "notes": list(self.notes),
        }


def noise_curves(
    predictions: Sequence[Prediction],
    clusters: Mapping[str, str],
    settings: Bootstrap,
    baseline: str,
    references: Sequence[str] = (),
) -> NoiseCurves:
    """The curves of every system that was shown spoilt evidence.

    Args:
        predictions: of a test, ordinary, spoilt and controls; those without a gold answer are left out.
        clusters: cluster of each query id (`cluster_of`).
        settings: how intervals are made.
        baseline: the system whose losses the others' are held against; without curves of it there are no ratios.
        references: systems that no noise reaches (majority, no retrieval), to be drawn beside the curves.
    """
    known = [p for p in predictions if p.gold is not None and p.gold.strip()]
    clean = {name: {p.query_id: p for p in mine} for name, mine in by_system(ordinary(known)).items()}
    points: list[NoisePoint] = []
    beside: list[NoisePoint] = []
    ratios: list[LossRatio] = []
    notes: list[str] = []
    for kind in NoiseKind:
        cells = _cells(known, clean, kind, notes)
        for metric, (answer_type, _) in SCORES.items():
            ids = _common(cells, answer_type)
            if not ids:
                continue
            for system, shares in cells.items():
                rows = {share: [mine[name] for name in ids] for share, mine in shares.items()}
                points += [_point(kind, share, system, metric, rows, clusters, settings) for share in rows]
            there = [name for name in references if all(query_id in clean.get(name, ()) for query_id in ids)]
            rest = {name: {0.0: [clean[name][query_id] for query_id in ids]} for name in there}
            beside += [_point(kind, 0.0, name, metric, rows, clusters, settings) for name, rows in rest.items()]
            ratios += _ratios(kind, metric, cells, ids, clusters, settings, baseline)
    return NoiseCurves(tuple(points), tuple(beside), tuple(ratios), tuple(notes))


def loss_ratio(
    clean: Sequence[Prediction],
    noisy: Sequence[Prediction],
    baseline_clean: Sequence[Prediction],
    baseline_noisy: Sequence[Prediction],
    metric: str,
    clusters: Mapping[str, str],
    settings: Bootstrap,
) -> LossRatio:
    """The losses of two systems compared; the four sequences are of the same queries in the same order, of one answer type.

    Args:
        clean, noisy: the system's predictions at share 0 and under the noise.
        baseline_clean, baseline_noisy: the baseline's.
        metric: a key of `SCORES` (``closed_accuracy``, ``closed_macro_f1``, ``open_token_recall``).
        clusters: cluster of each query id.
        settings: how intervals are made; all four are resampled alike.

    Raises:
        ValueError: the sequences are not of the same queries.
    """
    ids = [p.query_id for p in clean]
    if not clean or any([p.query_id for p in other] != ids for other in (noisy, baseline_clean, baseline_noisy)):
        raise ValueError("loss_ratio compares predictions of the same queries in the same order, and at least one")
    told = noisy[0].noise
    if told is None:
        raise ValueError(f"loss_ratio: the predictions of {system_of(noisy[0])!r} called noisy carry no noise")
    scorer, groups = SCORES[metric][1], [clusters[name] for name in ids]
    mine = difference(scorer(clean), scorer(noisy))
    theirs = difference(scorer(baseline_clean), scorer(baseline_noisy))
    baseline = system_of(baseline_clean[0])
    return LossRatio(
        told.kind, told.share, metric, system_of(clean[0]), baseline,
        settings.metric(mine, groups), settings.metric(theirs, groups),
        _ratio(mine, theirs, groups, settings, baseline),
        settings.metric(_contrast(mine, theirs), groups),
    )  # fmt: skip


def _ratio(mine: Statistic, theirs: Statistic, groups: Sequence[str], settings: Bootstrap, baseline: str) -> Metric:
    """The ratio of two losses. A bottom that crosses 0 gives no interval: its ends would jump between the infinities."""
    one = np.ones((1, len(groups)))
    bottom = float(theirs(one)[0])
    if not bottom > 0:
        return Metric.missing(f"{baseline} loses nothing: no ratio", len(groups))
    value = float(mine(one)[0]) / bottom
    if settings.resamples and len(set(groups)) > 1:
        draws = np.concatenate([theirs(weights) for weights in settings.weights(groups)])
        crossing = float(np.mean(~(draws > 0)))
        if crossing > (1 - settings.confidence) / 2:
            return Metric(value, math.nan, math.nan, len(groups), NO_LOSS.format(baseline=baseline, share=crossing))
    return settings.metric(_quotient(mine, theirs), groups)


def _quotient(top: Statistic, bottom: Statistic) -> Statistic:
    def statistic(weights_FN: Floats) -> Floats:
        below = bottom(weights_FN)
        return ratio(top(weights_FN), np.where(below > 0, below, 0.0))  # NaN for the few resamples without a loss

    return statistic


def _contrast(mine: Statistic, theirs: Statistic) -> Statistic:
    def statistic(weights_FN: Floats) -> Floats:
        return mine(weights_FN) - HALF * theirs(weights_FN)

    return statistic


def _cells(
    known: Sequence[Prediction], clean: Mapping[str, Mapping[str, Prediction]], kind: NoiseKind, notes: list[str]
) -> Cells:
    """Predictions of one kind by system and share, shares rising from 0. A system without ordinary predictions has no curve."""
    found: dict[str, dict[float, dict[str, Prediction]]] = defaultdict(lambda: defaultdict(dict))
    for p in known:
        if p.noise is not None and p.noise.kind is kind:
            mine = found[system_of(p)][p.noise.share]
            if p.query_id in mine:
                told = f"{system_of(p)!r} answers query {p.query_id!r}"
                raise ValueError(f"system {told} more than once under {kind} {p.noise.share:g}")
            mine[p.query_id] = p
    lacking = [name for name in found if name not in clean]
    notes += [f"{name}: no curve of {kind} noise, because its ordinary predictions are not there" for name in lacking]
    order = [name for name in clean if name in found]
    return {name: {0.0: clean[name], **dict(sorted(found[name].items()))} for name in order}


def _common(cells: Cells, answer_type: AnswerType) -> list[str]:
    """The queries of a type that every system answered at every share, sorted."""
    every = [mine for shares in cells.values() for mine in shares.values()]
    answered = [{name for name, p in mine.items() if p.answer_type is answer_type} for mine in every]
    return sorted(set.intersection(*answered)) if answered else []


def _point(
    kind: NoiseKind,
    share: float,
    system: str,
    metric: str,
    rows: Mapping[float, Sequence[Prediction]],
    clusters: Mapping[str, str],
    settings: Bootstrap,
) -> NoisePoint:
    groups, scorer = [clusters[p.query_id] for p in rows[share]], SCORES[metric][1]
    value = settings.metric(scorer(rows[share]), groups)
    change = settings.metric(difference(scorer(rows[share]), scorer(rows[0.0])), groups) if share else None
    return NoisePoint(kind, share, system, metric, value, change)


def _ratios(
    kind: NoiseKind,
    metric: str,
    cells: Cells,
    ids: Sequence[str],
    clusters: Mapping[str, str],
    settings: Bootstrap,
    baseline: str,
) -> list[LossRatio]:
    theirs = cells.get(baseline, {})
    found = []
    for system, shares in cells.items():
        for share in shares:
            if system != baseline and share and share in theirs:
                one, two, three, four = (
                    [mine[name] for name in ids] for mine in (shares[0.0], shares[share], theirs[0.0], theirs[share])
                )
                found.append(loss_ratio(one, two, three, four, metric, clusters, settings))
    return found
