"""Trains and tests the tiny reader on data sets with several seeds, and prints one table with controls and intervals.

    MEDRAG_DATA=../shared/data python scripts/bench/evaluate.py --data breastmnist retinamnist ham10000_28 vqa_rad
    python scripts/bench/evaluate.py --data minihospital --without_retrieval

Each (data set, seed) is one `fit` in a folder of its own; finished ones are reused, so an interrupted call goes on. A number
is the mean over seeds; its interval is a percentile bootstrap over clusters (patients, studies or images) of that mean, so it
covers the test set's chance, with the seeds as they are. Ends with one line of JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medrag_lightning import metrics
from medrag_lightning.metrics import Bootstrap, Unit, cluster_of
from medrag_lightning.metrics.bootstrap import Statistic, weighted_mean
from medrag_lightning.records import Query

sys.path.insert(0, str(Path(__file__).parent))
from over_seeds import (  # type: ignore[import-not-found]
    FLOORS,
    arguments,
    cell,
    interval,
    launch,
    mean_of,
    predictions,
    test_queries,
)

CLOSED, OPEN = ("accuracy", "macro-F1"), ("token recall",)
REGIMES = {"retrieved": "retrieved", "none": "no retrieval", "random": "random retrieval"}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, prints a Markdown table a data set, then the JSON line."""
    parser = arguments(__doc__, "runs/evaluate", "short names of configs/data files, or paths", "fit")
    parser.add_argument("--without_retrieval", action="store_true", help="also train a reader that never sees evidence")
    asked = parser.parse_args(argv)
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
    command = ["fit", "-c", "stages/reader_raft", "-c", config]
    command += ["-c", "smoke"] if data == "minihospital" else []
    command += [f"--trainer.default_root_dir={place}", f"--seed_everything={seed}", *more]
    if alone:
        command += ["--data.init_args.source=medrag_lightning.retrieval.source.NoEvidence"]
        command += ['--data.init_args.regimes=["retrieved"]']
    if (place / "checkpoints" / "last.ckpt").exists():
        command += ["--ckpt_path=last"]
    taken: float = launch(command, place)
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
        print(f"| {name} | " + " | ".join(cell(numbers.get(key)) for key in (*CLOSED, *OPEN)) + " |")
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


def _by_regime(place: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in predictions(place):
        found.setdefault(row["regime"], []).append(row)
    return found


def _statistic(name: str, rows: Sequence[dict[str, Any]]) -> Statistic:
    gold, answers = [row["gold"] for row in rows], [row["answer"] for row in rows]
    if name == "accuracy":
        return metrics.accuracy(gold, answers)
    if name == "macro-F1":
        return metrics.macro_f1(gold, answers)
    return weighted_mean(metrics.token_recall(gold, answers))


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
            found = interval(mean_of([_statistic(name, rows) for rows in chosen]), _clusters(chosen[0], queries))
            if found is not None:
                numbers[name] = found
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


if __name__ == "__main__":
    main()
