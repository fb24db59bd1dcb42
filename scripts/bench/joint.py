"""Runs the recipe `joint` with several seeds: reader and retriever trained together, beside JOMED's order on equal budgets.

    python scripts/bench/joint.py --data minihospital
    python scripts/bench/joint.py --data minihospital_sparse --more --reader_data data/minihospital

Each (data set, seed) is one run of the recipe in a folder of its own; finished steps are reused, so an interrupted call goes
on. All arms begin at one encoder and one reader:

    contrastive       neither learned on: the first reader, the retriever that image-text pairs trained
    distilled         JOMED's order: query heads learned from the first reader's scores, the reader as it was
    reader alone      the reader learned on with the retriever as it was, over the same prompts as `joint`
    joint             both learned, by -log sum_k p(a|z_k,q) p_R(z_k|q)
    joint, old search the joint reader with the first retriever: what of the gain is the reader's
    oracle of ...     share of questions that any candidate of that arm answers right, read by its own reader

Closed test questions. A number is the mean over seeds; its interval is a percentile bootstrap over clusters (patients, lesions
or images) of that mean; differences are paired. Ends with one line of JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medrag_lightning.metrics import Unit, cluster_of

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

SYSTEMS = {
    "no retrieval": ("test_heads", "none", ""),
    "contrastive": ("test_heads", "retrieved", "contrastive"),
    "distilled": ("test_heads", "retrieved", ""),
    "reader alone": ("test_alone", "retrieved", ""),
    "joint": ("test", "retrieved", ""),
    "joint, old search": ("test", "retrieved", "contrastive"),
    "known evidence": ("test", "oracle", ""),
}
"""Rows: the step, the regime and the system of its predictions. The last is on the questions whose evidence a world knows."""
ORACLES = ("distilled", "joint")
DIFFERENCES = [("joint", "contrastive"), ("joint", "distilled"), ("joint", "reader alone"), ("joint", "joint, old search")]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, prints Markdown tables, then the JSON line."""
    tell_recipe("joint", __doc__, report, argv)


def report(data: str, seeds: Sequence[int], folder: Path) -> dict[str, Any]:
    """Prints the tables of a data set and gives their figures."""
    places = [folder / f"{data}-seed{seed}" for seed in seeds]
    queries = test_queries(places[0] / "test" / "config.yaml")
    runs = {name: [read_closed(place, *where) for place in places] for name, where in SYSTEMS.items()}
    runs = {name: of for name, of in runs.items() if all(of)}
    ids = sorted(runs["joint"][0])
    clusters = cluster_of(queries.values(), Unit.PATIENT)
    units = [clusters[name] for name in ids]
    print(f"\n### {data}: {len(ids)} closed test questions, seeds {', '.join(map(str, seeds))}\n")
    print("| system | accuracy | macro-F1 |\n|---|---|---|")
    told: dict[str, Any] = {"questions": len(ids)}
    for name, of in runs.items():
        told[name] = _row(of, clusters)
        there = "" if len(of[0]) == len(ids) else f" (on {len(of[0])} of them)"
        print(f"| {name}{there} | " + " | ".join(map(cell, told[name])) + " |")
    for name in ORACLES:
        told[f"oracle of {name}"] = _accuracy([_oracle(rows) for rows in runs[name]], ids, units)
        print(f"| oracle of {name} | {cell(told[f'oracle of {name}'])} | |")
    for name, value in (constant_rows(places[0] / "test") | FLOORS.get(data, {})).items():
        print(f"| floor: {name} | {value:.3f} | |")
    return told | {"differences": _print_differences(runs, ids, units)}


def read_closed(place: Path, step: str, regime: str, system: str) -> Rows:
    """The closed, answered test predictions of one system by query."""
    rows = predictions(place / step)
    return {
        row["query_id"]: row
        for row in rows
        if (row["regime"], row["system"]) == (regime, system) and row["choices"] and row["gold"] is not None
    }


def _row(of: Sequence[Rows], clusters: Mapping[str, str]) -> list[Any]:
    mine = sorted(of[0])
    units = [clusters[name] for name in mine]
    return [_accuracy(of, mine, units), macro_f1(of, mine, units)]


def _oracle(rows: Rows) -> Rows:
    return {name: {"correct": row["gold"] in row["candidate_answers"]} for name, row in rows.items()}


def _accuracy(of: Sequence[Rows], ids: Sequence[str], units: Sequence[str]) -> list[float] | None:
    found: list[float] | None = interval(over(right(of, ids).sum(axis=0), np.full(len(ids), float(len(of)))), units)
    return found


def _print_differences(runs: Mapping[str, Sequence[Rows]], ids: Sequence[str], units: Sequence[str]) -> dict[str, Any]:
    print("\n| paired difference | accuracy |\n|---|---|")
    told: dict[str, Any] = {}
    for mine, theirs in DIFFERENCES:
        gained = right(runs[mine], ids) - right(runs[theirs], ids)
        told[f"{mine} - {theirs}"] = interval(over(gained.sum(axis=0), np.full(len(ids), float(len(gained)))), units)
        print(f"| {mine} minus {theirs} | {cell(told[f'{mine} - {theirs}'], signed=True)} |")
    return told


if __name__ == "__main__":
    main()
