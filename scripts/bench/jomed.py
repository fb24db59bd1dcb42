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

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medrag_lightning import metrics
from medrag_lightning.metrics import Bootstrap, Unit, cluster_of
from medrag_lightning.metrics.bootstrap import Floats, Statistic, ratio

sys.path.insert(0, str(Path(__file__).parent))
from evaluate import FLOORS, test_queries  # type: ignore[import-not-found]

ROOT = Path(__file__).resolve().parents[2]
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
Rows = dict[str, dict[str, Any]]
"""Predictions of one system and seed by query id."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, prints Markdown tables, then the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="short names of configs/data files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/jomed"))
    parser.add_argument("--only_run", action="store_true", help="run, and leave the tables to a later call")
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="further arguments of run; stands last")
    asked = parser.parse_args(argv)
    os.environ.setdefault("MEDRAG_DATA", str(ROOT.parent / "shared" / "data"))
    figures: dict[str, Any] = {}
    for data in asked.data:
        seconds = [run(data, seed, asked.folder, asked.more) for seed in asked.seeds]
        if not asked.only_run:
            figures[data] = report(data, asked.seeds, asked.folder) | {"seconds": seconds}
    print(json.dumps(figures))


def run(data: str, seed: int, folder: Path, more: Sequence[str]) -> float:
    """Runs the recipe for one data set and seed, or what is left of it; gives the seconds of this call."""
    place, started = folder / f"{data}-seed{seed}", time.monotonic()
    command = [sys.executable, "-m", "medrag_lightning", "run", "jomed", "--folder", str(place)]
    command += ["--data", f"data/{data}", "--seed", str(seed), *more]
    print(" ".join(command), flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{place.name}.log").open("a") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise SystemExit(f"{place.name} failed; see {folder / (place.name + '.log')}")
    return round(time.monotonic() - started, 1)


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
        cells["macro-F1"] = _macro_f1([one[system] for one in runs], ids, units)
        told[system] = cells
        row = (cells["all"], cells["macro-F1"], cells["inconsistent"], cells["consistent"])
        print(f"| {system} | " + " | ".join(map(_cell, row)) + " |")
    oracle = [{n: {"correct": r["gold"] in r["candidate_answers"]} for n, r in one["both heads"].items()} for one in runs]
    told["oracle of both"] = {g: _accuracy(oracle, ids, units, mixed, kept) for g, kept in groups.items()}
    row = told["oracle of both"]
    print(f"| oracle of both | {_cell(row['all'])} | | {_cell(row['inconsistent'])} | {_cell(row['consistent'])} |")
    for name, value in (majority(places[0]) | FLOORS.get(data, {})).items():
        print(f"| floor: {name} | {value:.3f} | | | |")
    told["gains"] = _print_gains(runs, ids, units, mixed, groups)
    told["gap_closed"] = _print_gap(runs, clusters)
    return told


def read_closed(place: Path) -> dict[str, Rows]:
    """The closed, answered test predictions of a run by system and query."""
    found: dict[str, Rows] = {}
    for line in (place / "predictions" / "test.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        name = NAMES.get((row["regime"], row["system"]))
        if name is not None and row["choices"] and row["gold"] is not None:
            found.setdefault(name, {})[row["query_id"]] = row
    return found


def majority(place: Path) -> dict[str, float]:
    """Accuracy of the most frequent training answer."""
    rows = json.loads((place / "results.json").read_text(encoding="utf-8"))["rows"]
    kept = [row for row in rows if row["system"] in ("majority", "question-only") and row["need"] is None]
    return {row["system"]: row["metrics"]["closed_accuracy"]["value"] for row in kept}


def _over(values: Floats, counted: Floats) -> Statistic:
    """Sum of `values` over sum of `counted`, both (N,), summed over seeds."""

    def statistic(weights_FN: Floats) -> Floats:
        share: Floats = ratio(weights_FN @ values, weights_FN @ counted)
        return share

    return statistic


def _counted(mixed: Sequence[dict[str, bool]], ids: Sequence[str], kept: bool | None) -> Floats:
    return np.array([[kept is None or of[name] == kept for name in ids] for of in mixed], dtype=np.float64)


def _interval(statistic: Statistic, units: Sequence[str]) -> list[float] | None:
    metric = Bootstrap().metric(statistic, units)
    return None if metric.value != metric.value else [metric.value, metric.low, metric.high]


def _accuracy(
    runs: Sequence[Rows], ids: Sequence[str], units: Sequence[str], mixed: Sequence[dict[str, bool]], kept: bool | None
) -> list[float] | None:
    right = np.array([[float(one[name]["correct"]) for name in ids] for one in runs])
    counted = _counted(mixed, ids, kept)
    return _interval(_over((right * counted).sum(axis=0), counted.sum(axis=0)), units)


def _macro_f1(runs: Sequence[Rows], ids: Sequence[str], units: Sequence[str]) -> list[float] | None:
    each = [metrics.macro_f1([one[name]["gold"] for name in ids], [one[name]["answer"] for name in ids]) for one in runs]

    def statistic(weights_FN: Floats) -> Floats:
        mean: Floats = np.mean([one(weights_FN) for one in each], axis=0)
        return mean

    return _interval(statistic, units)


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
        gained = np.array([[float(o[mine][n]["correct"]) - float(o[theirs][n]["correct"]) for n in ids] for o in runs])
        cells = {}
        for group, kept in groups.items():
            counted = _counted(mixed, ids, kept)
            cells[group] = _interval(_over((gained * counted).sum(axis=0), counted.sum(axis=0)), units)
        told[f"{mine} - {theirs}"] = cells
        print(f"| {mine} minus {theirs} | " + " | ".join(_cell(cell, signed=True) for cell in cells.values()) + " |")
    return told


def _print_gap(runs: Sequence[dict[str, Rows]], clusters: dict[str, str]) -> dict[str, Any] | None:
    """What share of the way from `contrastive` to the evidence known to be right each distilled retriever went."""
    if "known evidence" not in runs[0]:
        return None
    ids = sorted(runs[0]["known evidence"])
    units = [clusters[name] for name in ids]
    right = {s: np.array([[float(o[s][n]["correct"]) for n in ids] for o in runs]).mean(axis=0) for s in runs[0]}
    gap = right["known evidence"] - right["contrastive"]
    told: dict[str, Any] = {"questions": len(ids)}
    for system in ("contrastive", "known evidence", *DISTILLED):
        told[system] = _interval(_over(right[system], np.ones(len(ids))), units)
    print(f"\nOn the {len(ids)} questions with documents known to be right: ", end="")
    print(", ".join(f"{name} {_cell(value)}" for name, value in told.items() if name != "questions") + ".\n")
    told["gap"] = _interval(_over(gap, np.ones(len(ids))), units)
    print(f"Gap between contrastive and known evidence: {_cell(told['gap'], signed=True)}. Closed of it:", end=" ")
    for system in DISTILLED:
        told[f"{system} closes"] = _interval(_over(right[system] - right["contrastive"], gap), units)
    print(", ".join(f"{system} {_cell(told[f'{system} closes'])}" for system in DISTILLED) + ".")
    return told


def _cell(numbers: list[float] | None, signed: bool = False) -> str:
    if numbers is None:
        return ""
    form = "{:+.3f} [{:+.3f}, {:+.3f}]" if signed else "{:.3f} [{:.3f}, {:.3f}]"
    return form.format(*numbers)


if __name__ == "__main__":
    main()
