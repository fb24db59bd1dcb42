"""What the scripts about knowledge print of a reader: accuracy, calibration, and what it relies on (HeteroRAG's MD, KUD, KID).

Closed questions. A number is the mean over seeds; its interval is a percentile bootstrap over clusters (patients, lesions,
images) of that mean. What the shares mean is said in `hkpt`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrag_lightning import metrics
from medrag_lightning.metrics.bootstrap import Floats, Statistic

sys.path.insert(0, str(Path(__file__).parent))
from over_seeds import (  # type: ignore[import-not-found]
    Rows,
    cell,
    interval,
    macro_f1,
    mean_of,
    over,
    predictions,
)

HALF = 0.5
SHOWN = ("MD", "KUD", "KID", "over-reliance")
Asked = dict[str, Rows]
"""Predictions of one run by how it was asked: `own`, `none`, a variant, or a kind of noise at one half."""
Bools = NDArray[np.bool_]


def asked(place: Path) -> Asked:
    """The closed, answered test predictions of a run, by how they were asked."""
    found: Asked = {}
    for row in predictions(place, asked_again=True):
        if row["choices"] and row["gold"] is not None and not row["system"]:
            how = _how(row)
            if how is not None:
                found.setdefault(how, {})[row["query_id"]] = row
    return found


def _how(row: Mapping[str, Any]) -> str | None:
    if row["variant"]:
        return str(row["variant"])
    if row["noise"]:
        return str(row["noise"]["kind"]) if row["noise"]["share"] == HALF else None
    return {"retrieved": "own", "none": "none"}.get(row["regime"])


def _right(run: Asked, how: str, ids: Sequence[str]) -> tuple[Bools, Bools]:
    """Whether each question is right when asked so, and whether it was."""
    rows = run.get(how, {})
    return np.array([name in rows and rows[name]["correct"] for name in ids]), np.array([name in rows for name in ids])


def shares(run: Asked, ids: Sequence[str]) -> dict[str, tuple[Floats, Floats]]:
    """For each metric (N,) what counts and what it is counted among, as 0 and 1."""
    (own, _), (none, was_none) = _right(run, "own", ids), _right(run, "none", ids)
    other, was_other = _right(run, "other_image", ids)
    any_wrong = ~own
    for variant in ("without_reports", "without_documents"):
        right, was = _right(run, variant, ids)
        any_wrong |= was & ~right
    made: dict[str, tuple[NDArray[Any], Bools]] = {
        "accuracy": (own, np.ones_like(own)),
        "MD": (other & own, own & was_other),
        "KUD": (~own & ~none, ~none & was_none),
        "KID": (any_wrong & none, none),
        "over-reliance": (~own & none, ~own & was_none),
    }
    for kind in ("irrelevant", "contradicting"):
        right, was = _right(run, kind, ids)
        made[kind] = (own.astype(float) - right) * was, was
    return {name: (top.astype(float), bottom.astype(float)) for name, (top, bottom) in made.items() if bottom.any()}


def statistic_of(runs: Sequence[Asked], name: str, ids: Sequence[str]) -> Statistic | None:
    """The mean over seeds of a share."""
    each = [shares(run, ids).get(name) for run in runs]
    if any(one is None for one in each):
        return None
    mean: Statistic = mean_of([over(*one) for one in each if one is not None])
    return mean


def minus(mine: Statistic, theirs: Statistic) -> Statistic:
    """A difference."""

    def statistic(weights_FN: Floats) -> Floats:
        return mine(weights_FN) - theirs(weights_FN)

    return statistic


def print_accuracy(runs: Mapping[str, Sequence[Asked]], ids: Sequence[str], clusters: Mapping[str, str]) -> dict[str, Any]:
    """Accuracy, macro-F1, calibration error, and accuracy without evidence, of each system."""
    print("| system | accuracy | macro-F1 | calibration error | without evidence |\n|---|---|---|---|---|")
    units, told = [clusters[name] for name in ids], {}
    for name, of in runs.items():
        own = [{query: run["own"][query] for query in ids} for run in of]
        calibration = mean_of([_calibration(rows, ids) for rows in own])
        bare = mean_of([over(_right(run, "none", ids)[0].astype(float), np.ones(len(ids))) for run in of])
        told[name] = {
            "accuracy": interval(_known(statistic_of(of, "accuracy", ids)), units),
            "macro-F1": macro_f1(own, ids, units),
            "calibration_error": interval(calibration, units),
            "without_evidence": interval(bare, units),
        }
        print(f"| {name} | " + " | ".join(cell(value) for value in told[name].values()) + " |")
    return told


def _known(statistic: Statistic | None) -> Statistic:
    assert statistic is not None, "every question was asked"
    return statistic


def _calibration(rows: Rows, ids: Sequence[str]) -> Statistic:
    confidence = [float(np.exp(max(rows[name]["logp_nats"]))) for name in ids]
    return metrics.expected_calibration_error(confidence, [float(rows[name]["correct"]) for name in ids])


def print_reliance(
    runs: Mapping[str, Sequence[Asked]], names: Sequence[str], ids: Sequence[str], clusters: Mapping[str, str]
) -> dict[str, Any]:
    """What each system relies on, in each of the metrics `names`."""
    print("\n| lower is better | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    units, told = [clusters[name] for name in ids], {}
    for name, of in runs.items():
        found = {metric: statistic_of(of, metric, ids) for metric in names}
        told[name] = {metric: None if one is None else interval(one, units) for metric, one in found.items()}
        print(f"| {name} | " + " | ".join(cell(told[name][metric]) or "not computed" for metric in names) + " |")
    return told


def print_differences(
    runs: Mapping[str, Sequence[Asked]],
    compared: Sequence[tuple[str, str]],
    names: Sequence[str],
    ids: Sequence[str],
    clusters: Mapping[str, str],
) -> dict[str, Any]:
    """Paired differences in each of the metrics `names`: the first of every pair of systems minus the second."""
    print("\n| paired difference | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    units, told = [clusters[name] for name in ids], {}
    for mine, theirs in compared:
        row: dict[str, Any] = {}
        for metric in names:
            both = statistic_of(runs[mine], metric, ids), statistic_of(runs[theirs], metric, ids)
            row[metric] = None if both[0] is None or both[1] is None else interval(minus(both[0], both[1]), units)
        told[f"{mine} - {theirs}"] = row
        print(f"| {mine} minus {theirs} | " + " | ".join(cell(row[metric], True) or "not computed" for metric in names) + " |")
    return told
