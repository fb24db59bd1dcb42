"""Everything on against each single system: `full`, `jomed`, `mrrag`, `hkpt` on one data set, over seeds, in one table.

    python scripts/bench/full.py --data minihospital_texts
    python scripts/bench/full.py --data vqa_rad_texts --more --reader readers/tiny

Each recipe runs in its own folder, with the same data, reader and seed; finished steps are reused, so an interrupted call goes
on. `--more` goes to every recipe; an option that one of them does not have is left out there, and that is told.

Closed test questions that every system answered. A number is the mean over seeds; its interval is a percentile bootstrap over
clusters (patients, lesions, images) of that mean; differences are paired. *best single* is the single system of the highest
test accuracy: chosen on the test, which favours it. *no retrieval* and *known evidence* (where a world knows it) are those of
`full`. The readers of `jomed` and `mrrag` learn on all training patients, those of `hkpt` and `full` on one half, and are tuned
on the other.

Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from medrag_lightning.metrics import Unit, cluster_of
from medrag_lightning.metrics.bootstrap import Floats, Statistic
from medrag_lightning.records import Regime

sys.path.insert(0, str(Path(__file__).parent))
from over_seeds import (  # type: ignore[import-not-found]
    FLOORS,
    ROOT,
    Rows,
    arguments,
    cell,
    constant_rows,
    interval,
    macro_f1,
    predictions,
    right,
    run_recipe,
    test_queries,
)

OURS = "full"
SYSTEMS = {"full": "", "full, not steered": "not steered", "jomed": "", "mrrag": "mcr", "hkpt": ""}
"""Rows, and the system of the recipe's test that each shows; the recipe's name is what stands before the comma."""
CONTROLS = {"no retrieval": Regime.NONE, "known evidence": Regime.ORACLE}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, prints Markdown tables, then the JSON line."""
    parser = arguments(__doc__, "runs/full_compared", "short names of configs/data files", "run")
    parser.add_argument("--recipes", nargs="+", default=["full", "jomed", "mrrag", "hkpt"], help="those to run and compare")
    parser.add_argument("--only_run", action="store_true", help="run, and leave the tables to a later call")
    asked = parser.parse_args(argv)
    figures: dict[str, Any] = {}
    for data in asked.data:
        seconds = run(data, asked)
        if not asked.only_run:
            figures[data] = report(data, asked.seeds, asked.folder, asked.recipes) | {"seconds": seconds}
    print(json.dumps(figures))


def run(data: str, asked: argparse.Namespace) -> dict[str, list[float]]:
    """Runs the recipes on one data set; seconds of this call by recipe and seed."""
    seconds: dict[str, list[float]] = {}
    for seed in asked.seeds:
        for recipe in asked.recipes:
            more = taken(recipe, asked.more)
            seconds.setdefault(recipe, []).append(run_recipe(recipe, data, seed, asked.folder / recipe, more))
    return seconds


def taken(recipe: str, more: Sequence[str]) -> list[str]:
    """Those of the options that the recipe has: variables by name, and settings of steps by step."""
    told = yaml.safe_load((ROOT / "configs" / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8"))
    known, steps = set(told["variables"]), {step["name"] for step in told["steps"]}
    kept: list[str] = []
    for name, value in zip(more[::2], more[1::2], strict=True):
        if (name == "--set" and value.partition(".")[0] in steps) or name.removeprefix("--") in known:
            kept += [name, value]
        else:
            print(f"{recipe}: has no {value if name == '--set' else name}; left out", flush=True)
    return kept


def report(data: str, seeds: Sequence[int], folder: Path, recipes: Sequence[str]) -> dict[str, Any]:
    """Prints the tables of a data set and gives their figures."""
    places = {recipe: [folder / recipe / f"{data}-seed{seed}" / "test" for seed in seeds] for recipe in recipes}
    queries = test_queries(places[OURS][0] / "config.yaml")
    rows = {name: [answers(place, system, Regime.RETRIEVED) for place in places[recipe_of(name)]]
            for name, system in SYSTEMS.items() if recipe_of(name) in recipes}  # fmt: skip
    for name, regime in CONTROLS.items():
        found = [answers(place, "", regime) for place in places[OURS]]
        rows |= {name: found} if all(found) else {}
    ids = sorted(set.intersection(*(set(one) for of in rows.values() for one in of)))
    if not ids:
        raise SystemExit(f"{data}: no closed test question was answered by all of {', '.join(rows)}")
    by_id = cluster_of(queries.values(), Unit.PATIENT)
    units = [by_id[name] for name in ids]
    asked = {name: len(set(one)) for name, (one, *_) in rows.items()}
    print(f"\n### {data}: {len(ids)} closed test questions, seeds {', '.join(map(str, seeds))}\n")
    if left := {name: count - len(ids) for name, count in asked.items() if count != len(ids)}:
        print(
            "Not asked in all recipes and left out: " + ", ".join(f"{count} of {name}" for name, count in left.items()) + "\n"
        )
    systems = _print_systems(rows, ids, units)
    floors = constant_rows(places[OURS][0]) | FLOORS.get(data.removesuffix("_texts"), {})
    for name, value in floors.items():
        print(f"| floor: {name} | {value:.3f} | |")
    singles = [name for name in rows if recipe_of(name) != OURS and name not in CONTROLS]
    best = max(singles, key=lambda name: systems[name]["accuracy"][0]) if singles else None
    differences = _print_differences(rows, best, ids, units)
    return {"questions": len(ids), "systems": systems, "floors": floors, "best_single": best, "differences": differences}


def recipe_of(row: str) -> str:
    """The recipe that a row is of."""
    return row.partition(",")[0]


def answers(place: Path, system: str, regime: Regime) -> Rows:
    """The closed predictions of one system of a test, with all that it was asked."""
    return {
        row["query_id"]: row
        for row in predictions(place)
        if row["system"] == system
        and row["regime"] == regime
        and row["choices"]
        and row["gold"] is not None
        and not row["noise"]
    }


def _print_systems(rows: Mapping[str, Sequence[Rows]], ids: Sequence[str], units: Sequence[str]) -> dict[str, Any]:
    print("| system | accuracy | macro-F1 |\n|---|---|---|")
    told: dict[str, Any] = {}
    for name, runs in rows.items():
        told[name] = {"accuracy": interval(_mean(right(runs, ids)), units), "macro-F1": macro_f1(runs, ids, units)}
        print(f"| {name} | " + " | ".join(cell(value) for value in told[name].values()) + " |")
    return told


def _print_differences(
    rows: Mapping[str, Sequence[Rows]], best: str | None, ids: Sequence[str], units: Sequence[str]
) -> dict[str, Any]:
    print(f"\n| {OURS} minus | accuracy |\n|---|---|")
    ours, told = right(rows[OURS], ids), {}
    for name in rows:
        if name != OURS:
            told[name] = interval(_mean(ours - right(rows[name], ids)), units)
            print(f"| {name}{' (best single)' if name == best else ''} | {cell(told[name], signed=True)} |")
    return told


def _mean(right_SN: Floats) -> Statistic:
    """Mean over questions, then over seeds."""
    value_N: Floats = right_SN.mean(axis=0)

    def statistic(weights_FN: Floats) -> Floats:
        share: Floats = weights_FN @ value_N / weights_FN.sum(axis=-1)
        return share

    return statistic


if __name__ == "__main__":
    main()
