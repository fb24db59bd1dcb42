"""Trains and tests the tiny reader on data sets with several seeds, and prints one table with controls and intervals.

    MEDRAG_DATA=../shared/data python scripts/bench/evaluate.py --data breastmnist retinamnist ham10000_28 vqa_rad
    python scripts/bench/evaluate.py --data minihospital --without_retrieval

Each (data set, seed) is one `fit` in a folder of its own; finished ones are reused, so an interrupted call goes on. A number
is the mean over seeds; its interval is a percentile bootstrap over clusters (patients, studies or images) of that mean, so it
covers the test set's chance, with the seeds as they are. Ends with one line of JSON.
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
import yaml

from medrag_lightning import metrics
from medrag_lightning.metrics import Bootstrap, Unit, cluster_of
from medrag_lightning.metrics.bootstrap import Floats, Statistic, weighted_mean
from medrag_lightning.records import Query

ROOT = Path(__file__).resolve().parents[2]
CLOSED, OPEN = ("accuracy", "macro-F1"), ("token recall",)
REGIMES = {"retrieved": "retrieved", "none": "no retrieval", "random": "random retrieval"}
# Floors measured on the same files and splits by simple models: PCA + logistic regression on pixels, TF-IDF + logistic
# regression on the question, the latter with HOG features of the image.
FLOORS = {
    "breastmnist": {"PCA + logistic regression": 0.795},
    "retinamnist": {"PCA + logistic regression": 0.540},
    "ham10000_28": {"PCA + logistic regression": 0.534},
    "vqa_rad": {"question-only": 0.572, "question + HOG": 0.622},
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, prints a Markdown table a data set, then the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="short names of configs/data files, or paths")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/evaluate"))
    parser.add_argument("--without_retrieval", action="store_true", help="also train a reader that never sees evidence")
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="further arguments of fit; stands last")
    asked = parser.parse_args(argv)
    os.environ.setdefault("MEDRAG_DATA", str(ROOT.parent / "shared" / "data"))
    figures: dict[str, Any] = {}
    for data in asked.data:
        seconds = [run(data, seed, asked.folder, False, asked.more) for seed in asked.seeds]
        if asked.without_retrieval:
            seconds += [run(data, seed, asked.folder, True, asked.more) for seed in asked.seeds]
        figures[data] = report(data, asked.seeds, asked.folder, asked.without_retrieval) | {"seconds": seconds}
    print(json.dumps(figures))


def run_folder(data: str, seed: int, folder: Path, alone: bool) -> Path:
    """Where one run lies."""
    return folder / f"{Path(data).stem}{'-without-retrieval' if alone else ''}-seed{seed}"


def run(data: str, seed: int, folder: Path, alone: bool, more: Sequence[str]) -> float:
    """Fits and tests once, unless that is done; gives the seconds it took."""
    place = run_folder(data, seed, folder, alone)
    config = data if Path(data).suffix else f"data/{data}"
    if (place / "seconds.json").exists():
        return float(json.loads((place / "seconds.json").read_text()))
    command = [sys.executable, "-m", "medrag_lightning", "fit", "-c", "stages/reader_raft", "-c", config]
    command += ["-c", "smoke"] if data == "minihospital" else []
    command += [f"--trainer.default_root_dir={place}", f"--seed_everything={seed}", *more]
    if alone:
        command += ["--data.init_args.source=medrag_lightning.retrieval.source.NoEvidence"]
        command += ['--data.init_args.regimes=["retrieved"]']
    if (place / "checkpoints" / "last.ckpt").exists():
        command += ["--ckpt_path=last"]
    started = time.monotonic()
    print(" ".join(command), flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{place.name}.log").open("a") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise SystemExit(f"{place.name} failed; see {folder / (place.name + '.log')}")
    taken = round(time.monotonic() - started, 1)
    (place / "seconds.json").write_text(json.dumps(taken))
    return taken


def report(data: str, seeds: Sequence[int], folder: Path, without: bool) -> dict[str, Any]:
    """Prints the table of a data set and gives its figures."""
    queries = test_queries(run_folder(data, seeds[0], folder, False) / "config.yaml")
    systems: dict[str, list[list[dict[str, Any]]]] = {}
    for seed in seeds:
        for row in _by_regime(run_folder(data, seed, folder, False)).items():
            systems.setdefault(REGIMES.get(row[0], row[0]), []).append(row[1])
        if without:
            alone = _by_regime(run_folder(data, seed, folder, True))
            systems.setdefault("reader trained without retrieval", []).append(alone["retrieved"])
    print(f"\n### {data}: {len(queries)} test questions, seeds {', '.join(map(str, seeds))}\n")
    print("| system | closed accuracy | closed macro-F1 | open token recall |\n|---|---|---|---|")
    order = [*REGIMES.values(), *(name for name in systems if name not in REGIMES.values())]
    table = {name: _figures(systems[name], queries) for name in order}
    for name, numbers in (table | _controls(run_folder(data, seeds[0], folder, False))).items():
        print(f"| {name} | " + " | ".join(_cell(numbers.get(key)) for key in (*CLOSED, *OPEN)) + " |")
    for name, value in FLOORS.get(data, {}).items():
        print(f"| floor: {name} | {value:.3f} | | |")
    rivals = [name for name in table if name != "retrieved"]
    gains = {name: _gain(systems["retrieved"], systems[name], queries) for name in rivals}
    for name, gain in gains.items():
        _print_gain("retrieved", name, gain)
    harm = _gain(systems["poisoned"], systems["no retrieval"], queries) if "poisoned" in systems else None
    _print_gain("poisoned", "no retrieval", harm)
    return {"table": table, "retrieved_minus": gains, "poisoned_minus_no_retrieval": harm}


def _print_gain(mine: str, theirs: str, gain: list[float] | None) -> None:
    if gain is not None:
        print(f"\n{mine} minus {theirs}, closed accuracy, paired: {gain[0]:+.3f} [{gain[1]:+.3f}, {gain[2]:+.3f}]")


def test_queries(config: Path) -> dict[str, Query]:
    """The test questions of a run, by id."""
    from jsonargparse import ArgumentParser

    from medrag_lightning.data.module import MedragData

    parser = ArgumentParser()
    parser.add_subclass_arguments(MedragData, "data")
    text = yaml.safe_load(os.path.expandvars(config.read_text(encoding="utf-8")))
    built = parser.instantiate(parser.parse_object({"data": text["data"]}))
    return {query.id: query for query in built.data.split_queries("test")}


def _by_regime(place: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for line in (place / "predictions" / "test.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found.setdefault(row["regime"], []).append(row)
    return found


def _statistic(name: str, rows: Sequence[dict[str, Any]]) -> Statistic:
    gold, answers = [row["gold"] for row in rows], [row["answer"] for row in rows]
    if name == "accuracy":
        return metrics.accuracy(gold, answers)
    if name == "macro-F1":
        return metrics.macro_f1(gold, answers)
    return weighted_mean(metrics.token_recall(gold, answers))


def _mean(statistics: Sequence[Statistic]) -> Statistic:
    def statistic(weights_FN: Floats) -> Floats:
        mean: Floats = np.mean([one(weights_FN) for one in statistics], axis=0)
        return mean

    return statistic


def _chosen(rows: Sequence[dict[str, Any]], closed: bool) -> list[dict[str, Any]]:
    return sorted((r for r in rows if bool(r["choices"]) == closed and r["gold"] is not None), key=lambda r: str(r["query_id"]))


def _clusters(rows: Sequence[dict[str, Any]], queries: dict[str, Query]) -> list[str]:
    of = cluster_of(queries.values(), Unit.PATIENT)
    return [of[row["query_id"]] for row in rows]


def _figures(runs: Sequence[Sequence[dict[str, Any]]], queries: dict[str, Query]) -> dict[str, list[float]]:
    numbers = {}
    for name in (*CLOSED, *OPEN):
        chosen = [_chosen(rows, name in CLOSED) for rows in runs]
        if chosen[0]:
            metric = Bootstrap().metric(_mean([_statistic(name, rows) for rows in chosen]), _clusters(chosen[0], queries))
            numbers[name] = [metric.value, metric.low, metric.high]
    return numbers


def _gain(mine: Sequence[Any], theirs: Sequence[Any], queries: dict[str, Query]) -> list[float] | None:
    """Mean over seeds of the paired difference in closed accuracy over the questions that both answered."""
    a_runs, b_runs = ([_chosen(rows, True) for rows in runs] for runs in (mine, theirs))
    shared = {row["query_id"] for row in a_runs[0]} & {row["query_id"] for row in b_runs[0]}
    if not shared:
        return None
    kept = [row for row in a_runs[0] if row["query_id"] in shared]
    a_N, b_N = (
        np.mean([[row["correct"] for row in rows if row["query_id"] in shared] for rows in runs], axis=0).tolist()
        for runs in (a_runs, b_runs)
    )
    metric = Bootstrap().paired_difference(a_N, b_N, _clusters(kept, queries))
    return [metric.value, metric.low, metric.high]


def _controls(place: Path) -> dict[str, dict[str, list[float]]]:
    """Majority and question-only rows: the same for every seed."""
    names = {"closed_accuracy": "accuracy", "closed_macro_f1": "macro-F1", "open_token_recall": "token recall"}
    found: dict[str, dict[str, list[float]]] = {}
    for row in json.loads((place / "results.json").read_text(encoding="utf-8"))["rows"]:
        if row["system"] in ("majority", "question-only") and row["need"] is None:
            kept = {names[k]: [m["value"], m["low"], m["high"]] for k, m in row["metrics"].items() if k in names}
            found[row["system"]] = {k: v for k, v in kept.items() if v[0] is not None}
    return found


def _cell(numbers: list[float] | None) -> str:
    return "" if numbers is None else f"{numbers[0]:.3f} [{numbers[1]:.3f}, {numbers[2]:.3f}]"


if __name__ == "__main__":
    main()
