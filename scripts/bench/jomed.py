"""Runs the recipe `jomed` on data sets with several seeds and prints what distilling the reader into the retriever brought.

    MEDRAG_DATA=../shared/data python scripts/bench/jomed.py --data retinamnist breastmnist ham10000_28 vqa_rad_closed
    python scripts/bench/jomed.py --data minihospital

Each (data set, seed) is one run of the recipe in a folder of its own; finished steps are reused, so an interrupted call goes
on. One reader reads for all systems of a seed; they differ in the retriever alone:

    no retrieval      the fine-tuned reader without evidence        random retrieval   with random evidence
    contrastive       undistilled retriever, both channels          text head          its text side distilled
    image head        its image side distilled                      both heads         both
    oracle of both    share of questions that any candidate of `both heads` answers right
    known evidence    for generated worlds: the documents known to be relevant, on the questions that have such

A number is the mean over seeds; its interval is a percentile bootstrap over clusters (patients, lesions or images) of that
mean. The inconsistent subset holds the questions whose candidates under `contrastive` lead to different answers; it differs
from seed to seed, so a number on it is over (question, seed) pairs. Ends with one line of JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medrag_lightning.metrics import Unit, cluster_of
from medrag_lightning.metrics.bootstrap import Floats

sys.path.insert(0, str(Path(__file__).parent))
from over_seeds import (  # type: ignore[import-not-found]
    FLOORS,
    Rows,
    cell,
    constant_rows,
    interval,
    macro_f1,
    over,
    predictions,
    right,
    tell_recipe,
    test_queries,
)

NAMES = {
    ("none", ""): "no retrieval",
    ("random", ""): "random retrieval",
    ("retrieved", "contrastive"): "contrastive",
    ("retrieved", "text head"): "text head",
    ("retrieved", "image head"): "image head",
    ("retrieved", ""): "both heads",
    ("oracle", ""): "known evidence",
}
DISTILLED = ("text head", "image head", "both heads")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, prints Markdown tables, then the JSON line."""
    tell_recipe("jomed", __doc__, report, argv)


def report(data: str, seeds: Sequence[int], folder: Path) -> dict[str, Any]:
    """Prints the tables of a data set and gives their figures."""
    places = [folder / f"{data}-seed{seed}" / "test" for seed in seeds]
    queries = test_queries(places[0] / "config.yaml")
    runs = [read_closed(place) for place in places]
    ids = sorted(runs[0]["both heads"])
    clusters = cluster_of(queries.values(), Unit.PATIENT)
    units = [clusters[name] for name in ids]
    mixed = [{name: len(set(row["candidate_answers"])) > 1 for name, row in one["contrastive"].items()} for one in runs]
    groups = {"all": None, "inconsistent": True, "consistent": False}
    shares = [np.mean([of[name] for name in ids]) for of in mixed]
    print(f"\n### {data}: {len(ids)} closed test questions, seeds {', '.join(map(str, seeds))}\n")
    print(f"Inconsistent under `contrastive`: {', '.join(f'{share:.2f}' for share in shares)} of the questions by seed.\n")
    print("| system | accuracy | macro-F1 | accuracy, inconsistent | accuracy, consistent |\n|---|---|---|---|---|")
    told: dict[str, Any] = {"inconsistent_share": [float(share) for share in shares]}
    for system in [name for name in NAMES.values() if name in runs[0] and name != "known evidence"]:
        cells = {group: _accuracy([one[system] for one in runs], ids, units, mixed, kept) for group, kept in groups.items()}
        cells["macro-F1"] = macro_f1([one[system] for one in runs], ids, units)
        told[system] = cells
        row = (cells["all"], cells["macro-F1"], cells["inconsistent"], cells["consistent"])
        print(f"| {system} | " + " | ".join(map(cell, row)) + " |")
    oracle = [{n: {"correct": r["gold"] in r["candidate_answers"]} for n, r in one["both heads"].items()} for one in runs]
    told["oracle of both"] = {g: _accuracy(oracle, ids, units, mixed, kept) for g, kept in groups.items()}
    row = told["oracle of both"]
    print(f"| oracle of both | {cell(row['all'])} | | {cell(row['inconsistent'])} | {cell(row['consistent'])} |")
    for name, value in (constant_rows(places[0]) | FLOORS.get(data, {})).items():
        print(f"| floor: {name} | {value:.3f} | | | |")
    told["gains"] = _print_gains(runs, ids, units, mixed, groups)
    told["gap_closed"] = _print_gap(runs, clusters)
    return told


def read_closed(place: Path) -> dict[str, Rows]:
    """The closed, answered test predictions of a run by system and query."""
    found: dict[str, Rows] = {}
    for row in predictions(place):
        name = NAMES.get((row["regime"], row["system"]))
        if name is not None and row["choices"] and row["gold"] is not None:
            found.setdefault(name, {})[row["query_id"]] = row
    return found


def _counted(mixed: Sequence[dict[str, bool]], ids: Sequence[str], kept: bool | None) -> Floats:
    return np.array([[kept is None or of[name] == kept for name in ids] for of in mixed], dtype=np.float64)


def _accuracy(
    runs: Sequence[Rows], ids: Sequence[str], units: Sequence[str], mixed: Sequence[dict[str, bool]], kept: bool | None
) -> list[float] | None:
    counted = _counted(mixed, ids, kept)
    found: list[float] | None = interval(over((right(runs, ids) * counted).sum(axis=0), counted.sum(axis=0)), units)
    return found


def _print_gains(
    runs: Sequence[dict[str, Rows]],
    ids: Sequence[str],
    units: Sequence[str],
    mixed: Sequence[dict[str, bool]],
    groups: dict[str, bool | None],
) -> dict[str, Any]:
    """Paired differences to the undistilled retriever, and of that to no retrieval."""
    told: dict[str, Any] = {}
    print("\n| paired difference, accuracy | all | inconsistent | consistent |\n|---|---|---|---|")
    pairs = [("contrastive", "no retrieval"), *((name, "contrastive") for name in DISTILLED)]
    for mine, theirs in pairs:
        gained = right([o[mine] for o in runs], ids) - right([o[theirs] for o in runs], ids)
        cells = {}
        for group, kept in groups.items():
            counted = _counted(mixed, ids, kept)
            cells[group] = interval(over((gained * counted).sum(axis=0), counted.sum(axis=0)), units)
        told[f"{mine} - {theirs}"] = cells
        print(f"| {mine} minus {theirs} | " + " | ".join(cell(each, signed=True) for each in cells.values()) + " |")
    return told


def _print_gap(runs: Sequence[dict[str, Rows]], clusters: dict[str, str]) -> dict[str, Any] | None:
    """What share of the way from `contrastive` to the evidence known to be right each distilled retriever went."""
    if "known evidence" not in runs[0]:
        return None
    ids = sorted(runs[0]["known evidence"])
    units = [clusters[name] for name in ids]
    share = {system: right([one[system] for one in runs], ids).mean(axis=0) for system in runs[0]}
    gap = share["known evidence"] - share["contrastive"]
    told: dict[str, Any] = {"questions": len(ids)}
    for system in ("contrastive", "known evidence", *DISTILLED):
        told[system] = interval(over(share[system], np.ones(len(ids))), units)
    print(f"\nOn the {len(ids)} questions with documents known to be right: ", end="")
    print(", ".join(f"{name} {cell(value)}" for name, value in told.items() if name != "questions") + ".\n")
    told["gap"] = interval(over(gap, np.ones(len(ids))), units)
    print(f"Gap between contrastive and known evidence: {cell(told['gap'], signed=True)}. Closed of it:", end=" ")
    for system in DISTILLED:
        told[f"{system} closes"] = interval(over(share[system] - share["contrastive"], gap), units)
    print(", ".join(f"{system} {cell(told[f'{system} closes'])}" for system in DISTILLED) + ".")
    return told


if __name__ == "__main__":
    main()
