"""The results table: every system, every metric, every interval, and what may honestly be said about them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from medrag_lightning.metrics import calibration, vqa
from medrag_lightning.metrics.bootstrap import BIASED, Bootstrap, Metric, weighted_mean
from medrag_lightning.metrics.systems import RETRIEVED, SYSTEM_NAMES, by_system, ordinary
from medrag_lightning.records import AnswerType, Prediction, Query, Regime

CLOSED_METRICS = ("closed_accuracy", "closed_balanced_accuracy", "closed_macro_f1", "closed_ece", "closed_invalid")
OPEN_METRICS = ("open_token_recall", "open_token_f1", "open_exact_match", "open_invalid")
ITEM_SCORES = {
    "closed_accuracy": vqa.correct,
    "open_token_recall": vqa.token_recall,
    "open_token_f1": vqa.token_f1,
    "open_exact_match": vqa.exact_match,
}
COMPARED = {"closed_accuracy": "closed accuracy", "open_token_recall": "open token recall"}


class Unit(StrEnum):
    """What is resampled. Where a query does not tell, the next finer unit that it tells, down to the query itself."""

    PATIENT = "patient"
    STUDY = "study"
    IMAGE = "image"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class Row:
    """The metrics of one system over all queries (`need` None) or over those that need a certain evidence."""

    system: str
    need: str | None
    metrics: Mapping[str, Metric]


@dataclass(frozen=True, slots=True)
class Difference:
    """`system` minus `baseline` on the queries that both answered, resampled in pairs."""

    system: str
    baseline: str
    metric: str
    difference: Metric

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.difference.low > 0 or self.difference.high < 0


@dataclass(frozen=True, slots=True)
class ResultTable:
    """Rows over all queries, rows per need, paired differences to the retrieved system, and notes to print below."""

    rows: tuple[Row, ...]
    needs: tuple[Row, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON; numbers that could not be computed are null and carry their reason."""
        return {
            "rows": [_row_json(row) for row in (*self.rows, *self.needs)],
            "differences": [
                {"system": d.system, "baseline": d.baseline, "metric": d.metric, **d.difference.as_json(),
                 "excludes_zero": d.excludes_zero}
                for d in self.differences
            ],
            "notes": list(self.notes),
        }  # fmt: skip

    def as_records(self) -> list[dict[str, Any]]:
        """One flat record a number: system, need, metric, value, low, high, n, reason."""
        return [
            {"system": row.system, "need": row.need or "all", "metric": name, **metric.as_json()}
            for row in (*self.rows, *self.needs)
            for name, metric in row.metrics.items()
        ]


def cluster_of(queries: Iterable[Query], unit: Unit) -> dict[str, str]:
    """Which cluster each query id is resampled with."""
    return {query.id: _cluster(query, unit) for query in queries}


def summarise(
    predictions: Sequence[Prediction], clusters: Mapping[str, str] | None = None, settings: Bootstrap | None = None
) -> ResultTable:
    """All systems in `predictions`, side by side.

    Args:
        predictions: of every regime, with those of the controls (`controls.control_predictions`) where wanted.
            Predictions without a gold answer are left out, and a note says so; so are, silently, those of spoilt evidence.
        clusters: cluster of each query id (`cluster_of`); by default every query is its own.
        settings: how intervals are made.

    Raises:
        ValueError: a system answers one query twice, or a query has no cluster.
    """
    settings = settings or Bootstrap()
    predictions = ordinary(predictions)
    known = [p for p in predictions if p.gold is not None]
    clusters = {p.query_id: p.query_id for p in known} if clusters is None else clusters
    systems = by_system(known)
    missing = next((p.query_id for p in known if p.query_id not in clusters), None)
    if missing is not None:
        raise ValueError(f"query {missing!r} has a prediction but no cluster; give one for every predicted query")
    rows = [Row(name, None, _metrics(mine, clusters, settings)) for name, mine in systems.items()]
    needs = sorted({p.need for p in known if p.need is not None})
    by_need = [
        Row(name, need, _metrics(subset, clusters, settings))
        for need in needs
        for name, mine in systems.items()
        if (subset := [p for p in mine if p.need == need])
    ]
    differences = _differences(systems, clusters, settings)
    notes = [*_coverage_notes(predictions, systems), *_dropped_notes(systems)]
    notes += [*_honest_notes(differences), *_biased_notes(rows)]
    return ResultTable(tuple(rows), tuple(by_need), tuple(differences), tuple(notes))


def closed_calibration(predictions: Iterable[Prediction]) -> tuple[list[float], list[float]]:
    """Top-choice probability of every scored closed prediction with a gold answer, and 1 where that choice is right,
    else 0.

    Raises:
        ValueError: the log-probabilities of a prediction are not normalised over its choices.
    """
    probability, outcome = [], []
    for p in predictions:
        if p.answer_type is not AnswerType.CLOSED or not p.logp_nats or p.gold is None:
            continue
        share = [math.exp(logp) for logp in p.logp_nats]
        if len(share) != len(p.choices) or abs(sum(share) - 1) > 1e-3:
            raise ValueError(
                f"query {p.query_id!r}: {len(share)} log-probabilities with total probability {sum(share):.4f} "
                f"for {len(p.choices)} choices; they must be normalised over the choices"
            )
        best = max(range(len(share)), key=share.__getitem__)
        probability.append(share[best])
        outcome.append(vqa.correct([p.gold], [p.choices[best]])[0].item())
    return probability, outcome


def item_scores(predictions: Sequence[Prediction], metric: str) -> dict[str, float]:
    """Each query's own score in a metric of `ITEM_SCORES`; undefined ones are left out."""
    kind = AnswerType.CLOSED if metric == "closed_accuracy" else AnswerType.OPEN
    score = ITEM_SCORES[metric]
    mine = [p for p in predictions if p.answer_type is kind and p.gold is not None]
    values = score([p.gold or "" for p in mine], [p.answer for p in mine])
    return {p.query_id: float(value) for p, value in zip(mine, values, strict=True) if not math.isnan(value)}


def _metrics(predictions: Sequence[Prediction], clusters: Mapping[str, str], settings: Bootstrap) -> dict[str, Metric]:
    closed = [p for p in predictions if p.answer_type is AnswerType.CLOSED]
    opened = [p for p in predictions if p.answer_type is AnswerType.OPEN]
    gold, answers = [p.gold or "" for p in closed], [p.answer for p in closed]
    groups = [clusters[p.query_id] for p in closed]
    if closed:
        metrics = {
            "closed_accuracy": settings.metric(vqa.accuracy(gold, answers), groups),
            "closed_balanced_accuracy": settings.metric(vqa.balanced_accuracy(gold, answers), groups),
            "closed_macro_f1": settings.metric(vqa.macro_f1(gold, answers), groups),
            "closed_ece": _ece(closed, clusters, settings),
            "closed_invalid": settings.metric(vqa.invalid(answers), groups),
        }
    else:
        metrics = {name: Metric.missing("no closed questions") for name in CLOSED_METRICS}
    for name in OPEN_METRICS[:-1]:
        scores = item_scores(opened, name)
        mean = settings.metric(weighted_mean(list(scores.values())), [clusters[query_id] for query_id in scores])
        metrics[name] = mean if opened else Metric.missing("no open questions")
    groups = [clusters[p.query_id] for p in opened]
    silent = settings.metric(vqa.invalid([p.answer for p in opened]), groups) if opened else None
    metrics["open_invalid"] = silent or Metric.missing("no open questions")
    return metrics


def _ece(closed: Sequence[Prediction], clusters: Mapping[str, str], settings: Bootstrap) -> Metric:
    scored = [p for p in closed if p.logp_nats]
    if not scored:
        return Metric.missing("answers carry no probabilities")
    probability, outcome = closed_calibration(scored)
    statistic = calibration.expected_calibration_error(probability, outcome)
    return settings.metric(statistic, [clusters[p.query_id] for p in scored])


def _differences(
    systems: Mapping[str, Sequence[Prediction]], clusters: Mapping[str, str], settings: Bootstrap
) -> list[Difference]:
    if RETRIEVED not in systems:
        return []
    found = []
    for metric in COMPARED:
        own = item_scores(systems[RETRIEVED], metric)
        for baseline, theirs in systems.items():
            other = item_scores(theirs, metric)
            both = [query_id for query_id in own if query_id in other]
            if baseline == RETRIEVED or not both:
                continue
            a, b = [own[query_id] for query_id in both], [other[query_id] for query_id in both]
            gap = settings.paired_difference(a, b, [clusters[query_id] for query_id in both])
            found.append(Difference(RETRIEVED, baseline, metric, gap))
    return found


def _coverage_notes(predictions: Sequence[Prediction], systems: Mapping[str, Sequence[Prediction]]) -> list[str]:
    notes = []
    unknown = sum(p.gold is None for p in predictions)
    if unknown:
        notes.append(f"{unknown} predictions without a gold answer are left out")
    asked = {name: {p.query_id for p in mine} for name, mine in systems.items()}
    widest = max(asked.values(), key=len, default=set())
    partial = [name for name, mine in asked.items() if mine != widest]
    if partial:
        notes.append(f"other queries stand behind {', '.join(partial)}: compare by paired differences, not by rows")
    return notes


def _dropped_notes(systems: Mapping[str, Sequence[Prediction]]) -> list[str]:
    """How much evidence was left out because prompts were too long."""
    notes = []
    for name, mine in systems.items():
        short, count = sum(bool(p.dropped) for p in mine), sum(len(p.dropped) for p in mine)
        if short:
            of = count + sum(len(p.cited) for p in mine)
            notes.append(f"{name}: {count} of {of} candidates did not fit into the prompts of {short} of {len(mine)} queries")
    return notes


def _biased_notes(rows: Iterable[Row]) -> list[str]:
    """Where an interval does not hold its own value."""
    found = [(row, name) for row in rows for name, metric in row.metrics.items() if metric.reason == BIASED]
    names = sorted({f"{name} of {row.system}" for row, name in found if row.need is None})
    return [f"{', '.join(names)}: {BIASED}"] if names else []


def _honest_notes(differences: Iterable[Difference]) -> list[str]:
    """What the retrieved system should win against (all but oracle and poisoned evidence) and does not."""
    may_win = (SYSTEM_NAMES[Regime.ORACLE], SYSTEM_NAMES[Regime.POISONED])
    beaten_by: dict[str, list[str]] = defaultdict(list)
    for d in differences:
        if d.baseline not in may_win and not d.difference.low > 0:
            verdict = "worse than" if d.difference.high < 0 else "not shown to be better than"
            beaten_by[f"in {COMPARED[d.metric]}, {d.system} is {verdict}"].append(d.baseline)
    return [f"{verdict} {', '.join(baselines)}" for verdict, baselines in beaten_by.items()]


def _cluster(query: Query, unit: Unit) -> str:
    known = {Unit.PATIENT: query.patient_id, Unit.STUDY: query.study_id, Unit.IMAGE: query.image and str(query.image)}
    order = list(Unit)
    for finer in order[order.index(unit) :]:
        if known.get(finer) is not None:
            return f"{finer}:{known[finer]}"
    return f"query:{query.id}"


def _row_json(row: Row) -> dict[str, Any]:
    return {"system": row.system, "need": row.need, "metrics": {name: m.as_json() for name, m in row.metrics.items()}}
