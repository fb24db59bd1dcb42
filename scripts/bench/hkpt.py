"""Runs the recipe `hkpt_compared` with several seeds: preference tuning beside its baselines and without its parts.

    python scripts/bench/hkpt.py --data minihospital_texts --more --set reader.trainer.max_epochs=6
    MEDRAG_DATA=../shared/data python scripts/bench/hkpt.py --data vqa_rad_texts ham10000_28_texts \\
        --more --reader readers/tiny --tuned readers/tiny_tuned

Each (data set, seed) is one run of the recipe in its own folder; finished steps are reused, so an interrupted call goes on.
One reader a seed is the start of all: an adapter on top of it is tuned for as many steps on right answers alone (SFT), on the
pairs of KB-PT, RAG-PT, HKPT v1 and v2, and on those of v2 without each of its three kinds.

Closed questions. A number is the mean over seeds; its interval is a percentile bootstrap over clusters (patients, lesions,
images) of that mean. Lower is better for

    MD    right with another image, of those right with their own, the same evidence
    KUD   still wrong with evidence, of those wrong without any
    KID   wrong with reports, documents or both, of those right without any
    over-reliance   right without evidence, of those wrong with it

`irrelevant`, `contradicting`: how far accuracy falls when half of the evidence is spoilt. Ends with one line of JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrag_lightning import metrics
from medrag_lightning.metrics import Unit, cluster_of
from medrag_lightning.metrics.bootstrap import Floats, Statistic

sys.path.insert(0, str(Path(__file__).parent))
from over_seeds import (  # type: ignore[import-not-found]
    FLOORS,
    Rows,
    cell,
    constant_rows,
    interval,
    macro_f1,
    mean_of,
    over,
    predictions,
    tell_recipe,
    test_queries,
)

STEPS = {
    "before tuning": "test_before",
    "SFT": "test_sft",
    "KB-PT": "test_kb_pt",
    "RAG-PT": "test_rag_pt",
    "HKPT v1": "test_hkpt_v1",
    "HKPT v2": "test",
    "no cross-modality": "test_no_cma",
    "no utilisation": "test_no_ku",
    "no robustness": "test_no_kr",
}
PAIRS = {"KB-PT": "tune_kb_pt", "RAG-PT": "tune_rag_pt", "HKPT v1": "tune_hkpt_v1", "HKPT v2": "pairs"}
HALF = 0.5
SHOWN = ("MD", "KUD", "KID", "over-reliance")
OWN_METRIC = {"no cross-modality": "MD", "no utilisation": "KUD", "no robustness": "KID"}
Asked = dict[str, Rows]
"""Predictions of one run by how it was asked: `own`, `none`, a variant, or a kind of noise at one half."""
Bools = NDArray[np.bool_]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, prints Markdown tables, then the JSON line."""
    tell_recipe("hkpt_compared", __doc__, report, argv)


def report(data: str, seeds: Sequence[int], folder: Path) -> dict[str, Any]:
    """Prints the tables of a data set and gives their figures."""
    places = [folder / f"{data}-seed{seed}" for seed in seeds]
    queries = test_queries(places[0] / "test" / "config.yaml")
    runs = {name: [asked(place / step) for place in places] for name, step in STEPS.items()}
    clusters = cluster_of(queries.values(), Unit.PATIENT)
    ids = sorted(runs["SFT"][0]["own"])
    print(f"\n### {data}: {len(ids)} closed test questions, seeds {', '.join(map(str, seeds))}\n")
    told: dict[str, Any] = {"questions": len(ids), "systems": _print_accuracy(runs, ids, clusters)}
    for name, value in (constant_rows(places[0] / "test") | FLOORS.get(data.removesuffix("_texts"), {})).items():
        print(f"| floor: {name} | {value:.3f} | | | |")
    told["reliance"] = _print_reliance(runs, ids, clusters)
    told["differences"] = _print_differences(runs, ids, clusters)
    told["pairs"] = _print_pairs(places)
    return told


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


def _statistic(runs: Sequence[Asked], name: str, ids: Sequence[str]) -> Statistic | None:
    """The mean over seeds of a share."""
    each = [shares(run, ids).get(name) for run in runs]
    if any(one is None for one in each):
        return None
    mean: Statistic = mean_of([over(*one) for one in each if one is not None])
    return mean


def _minus(mine: Statistic, theirs: Statistic) -> Statistic:
    def statistic(weights_FN: Floats) -> Floats:
        return mine(weights_FN) - theirs(weights_FN)

    return statistic


def _print_accuracy(runs: Mapping[str, Sequence[Asked]], ids: Sequence[str], clusters: Mapping[str, str]) -> dict[str, Any]:
    print("| system | accuracy | macro-F1 | calibration error | without evidence |\n|---|---|---|---|---|")
    units, told = [clusters[name] for name in ids], {}
    for name, of in runs.items():
        own = [{query: run["own"][query] for query in ids} for run in of]
        calibration = mean_of([_calibration(rows, ids) for rows in own])
        bare = mean_of([over(_right(run, "none", ids)[0].astype(float), np.ones(len(ids))) for run in of])
        told[name] = {
            "accuracy": interval(_known(_statistic(of, "accuracy", ids)), units),
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


def _print_reliance(runs: Mapping[str, Sequence[Asked]], ids: Sequence[str], clusters: Mapping[str, str]) -> dict[str, Any]:
    names = [*SHOWN, "irrelevant", "contradicting"]
    print("\n| lower is better | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    units, told = [clusters[name] for name in ids], {}
    for name, of in runs.items():
        found = {metric: _statistic(of, metric, ids) for metric in names}
        told[name] = {metric: None if one is None else interval(one, units) for metric, one in found.items()}
        print(f"| {name} | " + " | ".join(cell(told[name][metric]) or "not computed" for metric in names) + " |")
    return told


def _print_differences(runs: Mapping[str, Sequence[Asked]], ids: Sequence[str], clusters: Mapping[str, str]) -> dict[str, Any]:
    """Paired differences: tuned minus SFT, and each ablation minus the whole."""
    names = ["accuracy", *SHOWN, "irrelevant", "contradicting"]
    print("\n| paired difference | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    units, told = [clusters[name] for name in ids], {}
    pairs = [("SFT", "before tuning"), *((name, "SFT") for name in ("KB-PT", "RAG-PT", "HKPT v1", "HKPT v2"))]
    pairs += [("HKPT v2", other) for other in ("before tuning", "KB-PT", "RAG-PT", "HKPT v1")]
    pairs += [(name, "HKPT v2") for name in OWN_METRIC]
    for mine, theirs in pairs:
        row: dict[str, Any] = {}
        for metric in names:
            both = _statistic(runs[mine], metric, ids), _statistic(runs[theirs], metric, ids)
            row[metric] = None if both[0] is None or both[1] is None else interval(_minus(both[0], both[1]), units)
        told[f"{mine} - {theirs}"] = row
        print(f"| {mine} minus {theirs} | " + " | ".join(cell(row[metric], True) or "not computed" for metric in names) + " |")
    return told


def _print_pairs(places: Sequence[Path]) -> dict[str, Any]:
    """Training pairs of each kind by seed."""
    told: dict[str, Any] = {}
    print("\n| training pairs by seed | " + " | ".join(str(kind) for kind in _KINDS) + " |\n|---|" + "---|" * len(_KINDS))
    for name, step in PAIRS.items():
        counts = [_pairs_of(place / step / "pairs") for place in places]
        told[name] = counts
        print(f"| {name} | " + " | ".join(", ".join(str(one.get(kind, 0)) for one in counts) for kind in _KINDS) + " |")
    return told


_KINDS = ("cross_modality", "knowledge_utilisation", "knowledge_robustness")


def _pairs_of(folder: Path) -> dict[str, int]:
    from medrag_lightning.preference_files import read_preferences
    from medrag_lightning.records import Split

    counts: dict[str, int] = {}
    for pair in read_preferences(folder).pairs[Split.TRAIN]:
        counts[str(pair.kind)] = counts.get(str(pair.kind), 0) + 1
    return counts


if __name__ == "__main__":
    main()
