"""What the scripts share that run something with several seeds and print one table: arguments, runs, means, intervals.

A number is the mean over seeds; its interval is a percentile bootstrap over clusters (patients, lesions, studies or images) of
that mean, so it covers the test set's chance, with the seeds as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from medrag_lightning import metrics
from medrag_lightning.metrics import Bootstrap
from medrag_lightning.metrics.bootstrap import Floats, Statistic, ratio
from medrag_lightning.records import Query

ROOT = Path(__file__).resolve().parents[2]
Rows = dict[str, dict[str, Any]]
"""Predictions of one system and seed by query id."""
Report = Callable[[str, Sequence[int], Path], dict[str, Any]]
"""Prints the tables of a data set (name, seeds, folder of the runs) and gives their figures."""

# Floors measured on the same files and splits by simple models: PCA + logistic regression on pixels, TF-IDF + logistic
# regression on the question, the latter with HOG features of the image.
_PIXELS, _VQA = "PCA + logistic regression", {"question-only": 0.572, "question + HOG": 0.622}
FLOORS = {
    "breastmnist": {_PIXELS: 0.795},
    "retinamnist": {_PIXELS: 0.540},
    "ham10000_28": {_PIXELS: 0.534},
    "vqa_rad": _VQA,
    "vqa_rad_closed": _VQA,
}


def arguments(description: str | None, folder: str, data: str, verb: str) -> argparse.ArgumentParser:
    """The arguments of all such scripts; `verb` is what `--more` is handed to. Makes sure that MEDRAG_DATA is set."""
    os.environ.setdefault("MEDRAG_DATA", str(ROOT.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help=data)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path(folder))
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help=f"further arguments of {verb}; stands last")
    return parser


def launch(command: Sequence[str], place: Path) -> float:
    """Runs ``python -m medrag_lightning ...``, its output in ``PLACE.log``; gives the seconds, ends the script on failure."""
    started, log = time.monotonic(), place.parent / f"{place.name}.log"
    words = [sys.executable, "-m", "medrag_lightning", *command]
    print(" ".join(words), flush=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as stream:
        done = subprocess.run(words, stdout=stream, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise SystemExit(f"{place.name} failed; see {log}")
    return round(time.monotonic() - started, 1)


def run_recipe(recipe: str, data: str, seed: int, folder: Path, more: Sequence[str]) -> float:
    """Runs a recipe for one data set and seed, or what is left of it; gives the seconds of this call."""
    place = folder / f"{data}-seed{seed}"
    command = ["run", recipe, "--folder", str(place), "--data", f"data/{data}", "--seed", str(seed), *more]
    return launch(command, place)


def tell_recipe(
    recipe: str, description: str | None, report: Report, argv: Sequence[str] | None, compared: str | None = None
) -> None:
    """The whole of a script about a recipe: runs what is not there yet, prints `report` of each data set, then the JSON line.

    Args:
        recipe: its name.
        description: for ``--help``.
        report: of one data set.
        argv: the command line; None for the process's own.
        compared: the recipe that ``--compared`` runs instead.
    """
    parser = arguments(description, f"runs/{recipe}", "short names of configs/data files", "run")
    if compared is not None:
        parser.add_argument("--compared", dest="recipe", action="store_const", const=compared, help=f"run {compared} instead")
    parser.set_defaults(recipe=recipe)
    parser.add_argument("--only_run", action="store_true", help="run, and leave the tables to a later call")
    asked = parser.parse_args(argv)
    figures: dict[str, Any] = {}
    for data in asked.data:
        seconds = [run_recipe(asked.recipe, data, seed, asked.folder, asked.more) for seed in asked.seeds]
        if not asked.only_run:
            figures[data] = report(data, asked.seeds, asked.folder) | {"seconds": seconds}
    print(json.dumps(figures))


def test_queries(config: Path) -> dict[str, Query]:
    """The test questions of a run, by id."""
    from jsonargparse import ArgumentParser

    from medrag_lightning.data.module import MedragData

    parser = ArgumentParser()
    parser.add_subclass_arguments(MedragData, "data")
    text = yaml.safe_load(os.path.expandvars(config.read_text(encoding="utf-8")))
    built = parser.instantiate(parser.parse_object({"data": text["data"]}))
    return {query.id: query for query in built.data.split_queries("test")}


def predictions(place: Path, asked_again: bool = False) -> list[dict[str, Any]]:
    """The test predictions of a run, in file order; with `asked_again` also those with another image or less evidence."""
    lines = (place / "predictions" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if asked_again or row.get("variant") is None]


def constant_rows(place: Path) -> dict[str, float]:
    """Closed accuracy of the most frequent training answer, and of a model of the question alone."""
    rows = json.loads((place / "results.json").read_text(encoding="utf-8"))["rows"]
    kept = [row for row in rows if row["system"] in ("majority", "question-only") and row["need"] is None]
    return {row["system"]: row["metrics"]["closed_accuracy"]["value"] for row in kept}


def right(runs: Sequence[Rows], ids: Sequence[str]) -> Floats:
    """(seeds, N): 1 where the answer is right."""
    return np.array([[float(one[name]["correct"]) for name in ids] for one in runs])


def interval(statistic: Statistic, units: Sequence[str]) -> list[float] | None:
    """Value, low and high; None where the statistic cannot be computed."""
    metric = Bootstrap().metric(statistic, units)
    return None if metric.value != metric.value else [metric.value, metric.low, metric.high]


def over(values_N: Floats, counted_N: Floats) -> Statistic:
    """Sum of `values_N` over sum of `counted_N`, both summed over seeds."""

    def statistic(weights_FN: Floats) -> Floats:
        share: Floats = ratio(weights_FN @ values_N, weights_FN @ counted_N)
        return share

    return statistic


def mean_of(statistics: Sequence[Statistic]) -> Statistic:
    """The mean of one statistic a seed."""

    def statistic(weights_FN: Floats) -> Floats:
        mean: Floats = np.mean([one(weights_FN) for one in statistics], axis=0)
        return mean

    return statistic


def macro_f1(runs: Sequence[Rows], ids: Sequence[str], units: Sequence[str]) -> list[float] | None:
    """Macro-F1, the mean over seeds."""
    each = [metrics.macro_f1([one[name]["gold"] for name in ids], [one[name]["answer"] for name in ids]) for one in runs]
    return interval(mean_of(each), units)


def cell(numbers: list[float] | None, signed: bool = False) -> str:
    """``0.512 [0.480, 0.541]``, or nothing."""
    if numbers is None:
        return ""
    form = "{:+.3f} [{:+.3f}, {:+.3f}]" if signed else "{:.3f} [{:.3f}, {:.3f}]"
    return form.format(*numbers)
