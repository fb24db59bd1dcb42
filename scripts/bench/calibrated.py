"""Runs the recipe `calibrated` with several seeds: what calibrated selection keeps on held-out questions, beside every fixed k.

    python scripts/bench/calibrated.py --data minihospital
    python scripts/bench/calibrated.py --data minihospital --more --alpha 0.3

Each (data set, seed) is one run in its own folder; finished steps are reused. Closed questions. Risk is the share of wrong
answers among what is answered, each patient counting as much as another, as it is calibrated; accuracy counts questions.

- Systems: the calibrated number of documents as `test` reads it, each fixed k, no evidence, known evidence (where there is
  some). Means over seeds, intervals by bootstrap over patients, and the paired difference from the calibrated one.
- Guarantees: calibrated on validation, measured on test: choice, risk there and here, coverage, share that was searched for. k
  alone, as `calibrate` took it, and the joint choice {answer without searching, answer with k, abstain}, as `joint` did.
- Halves: the patients of validation and test together are parted at random again and again; calibrated on one half, measured on
  the other: how often a choice was guaranteed, and how often its risk was above alpha (of half a test set, which is itself
  chance: a risk just below alpha is measured above it half of the time).

Ends with one line of JSON.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from medrag_lightning.calibration import Calibration, CalibrationSettings, Outcomes, Policy, calibrate
from medrag_lightning.calibration.choosing import true_risk
from medrag_lightning.metrics import Unit, cluster_of
from medrag_lightning.records import Split

sys.path.insert(0, str(Path(__file__).parent))
from over_seeds import (  # type: ignore[import-not-found]
    Rows,
    cell,
    constant_rows,
    interval,
    over,
    predictions,
    right,
    tell_recipe,
    test_queries,
)

OWN = {"retrieved": "calibrated k", "none": "no evidence", "oracle": "known evidence"}
PARTS = 200
ALPHAS = (0.1, 0.15, 0.2, 0.3, 0.4)
CHOICES = {"calibrate": "k alone", "joint": "joint"}  # by step


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, prints Markdown tables, then the JSON line."""
    tell_recipe("calibrated", __doc__, report, argv)


def report(data: str, seeds: Sequence[int], folder: Path) -> dict[str, Any]:
    """Prints the tables of a data set and gives their figures."""
    places = [folder / f"{data}-seed{seed}" for seed in seeds]
    outcomes = [outcomes_of(place) for place in places]
    print(f"\n### {data}, seeds {', '.join(map(str, seeds))}\n")
    told: dict[str, Any] = {"systems": _print_systems(places)}
    told["guarantees"] = _print_guarantees(places, seeds, [test for _, test in outcomes])
    told["halves"] = _print_halves(places, outcomes)
    return told


def outcomes_of(place: Path) -> tuple[Outcomes, Outcomes]:
    """What the score table of a run says of validation and test questions, with 0, 1, ... documents."""
    from jsonargparse import ArgumentParser

    from medrag_lightning.data.calibrating import Reading, measure
    from medrag_lightning.data.module import MedragData
    from medrag_lightning.data.scores import ScoreTable

    parser = ArgumentParser()
    parser.add_subclass_arguments(MedragData, "data")
    text = yaml.safe_load(os.path.expandvars((place / "score_first" / "config.yaml").read_text(encoding="utf-8")))
    served = parser.instantiate(parser.parse_object({"data": text["data"]})).data
    served.prepare_data()
    served.setup("predict")
    table = ScoreTable.open(place / "score_first" / "table")
    ks = (0, *text["data"]["init_args"]["scoring"]["conditions"]["first"])
    val, test = (measure(served.world(), table, split, ks, Reading()).outcomes for split in (Split.VAL, Split.TEST))
    return val, test


def _print_systems(places: Sequence[Path]) -> dict[str, Any]:
    queries = test_queries(places[0] / "test" / "config.yaml")
    clusters = cluster_of(queries.values(), Unit.PATIENT)
    runs = [_read(place / "test") for place in places]
    print("| system | accuracy | minus calibrated k |\n|---|---|---|")
    told: dict[str, Any] = {}
    for name in runs[0]:
        ids = sorted(runs[0][name])
        units, ones_N = [clusters[query] for query in ids], np.ones(len(ids))
        mine_N, base_N = (right([one[system] for one in runs], ids).mean(axis=0) for system in (name, OWN["retrieved"]))
        difference = None if name == OWN["retrieved"] else interval(over(mine_N - base_N, ones_N), units)
        told[name] = {"questions": len(ids), "accuracy": interval(over(mine_N, ones_N), units), "difference": difference}
        some = "" if len(ids) == len(runs[0][OWN["retrieved"]]) else f", on {len(ids)} questions"
        print(f"| {name}{some} | {cell(told[name]['accuracy'])} | {cell(difference, signed=True)} |")
    for name, value in constant_rows(places[0] / "test").items():
        print(f"| floor: {name} | {value:.3f} | |")
    return told


def _read(place: Path) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for row in predictions(place):
        if row["choices"] and row["gold"] is not None and row["regime"] in OWN and row["noise"] is None:
            found.setdefault(row["system"] or OWN[row["regime"]], {})[row["query_id"]] = row
    return found


def _print_guarantees(places: Sequence[Path], seeds: Sequence[int], tests: Sequence[Outcomes]) -> list[dict[str, Any]]:
    print("\n| seed, choice | alpha | n | taken | guaranteed | calibration risk | test risk | coverage | searched |")
    print("|---" * 9 + "|")
    told = []
    for place, seed, test in zip(places, seeds, tests, strict=True):
        for step, name in CHOICES.items():
            made = Calibration.read(place / step / "calibration.json")
            row: dict[str, Any] = {"seed": seed, "choice": name, "alpha": made.alpha, "delta": made.delta}
            row |= {"n": made.told["units"], "guaranteed": made.guaranteed, "taken": str(made.policy)}
            chosen = made.told["chosen"] or {}
            row |= {"calibration_risk": chosen.get("risk"), **_held_out(test, made.policy)}
            told.append(row)
            numbers = [row["calibration_risk"], *(row[key] for key in ("test_risk", "coverage", "searched"))]
            cells = " | ".join("-" if value is None else f"{value:.3f}" for value in numbers)
            held = "yes" if made.guaranteed else "NO"
            print(f"| {seed}, {name} | {made.alpha:g} | {row['n']} | {row['taken']} | {held} | {cells} |")
    return told


def _held_out(test: Outcomes, policy: Policy | None) -> dict[str, Any]:
    """Risk, coverage and share that evidence is searched for, of test questions."""
    if policy is None:
        return {"test_risk": None, "coverage": 0.0, "searched": 0.0}
    answered_N = test.under(policy)[1]
    searched = float(policy.k > 0)
    if policy.without_from is not None:
        searched = float(np.mean(test.probability_KN[test.ks.index(0)] < policy.without_from))
    return {"test_risk": true_risk(test, policy), "coverage": float(answered_N.mean()), "searched": searched}


def _print_halves(places: Sequence[Path], outcomes: Sequence[tuple[Outcomes, Outcomes]]) -> dict[str, Any]:
    print(f"\n| {PARTS} random halves a seed | alpha | n | guaranteed | held-out risk | above alpha | coverage | k |")
    print("|---" * 8 + "|")
    told: dict[str, Any] = {}
    own = {name: settings_of(Calibration.read(places[0] / step / "calibration.json")) for step, name in CHOICES.items()}
    swept = {f"k alone, alpha {alpha:g}": replace(own["k alone"], alpha=alpha) for alpha in ALPHAS}
    for name, settings in (own | swept).items():
        found: list[tuple[Policy, float, float]] = []
        for seed, (val, test) in enumerate(outcomes):
            found += halves(joined(val, test), settings, PARTS, seed)
        share = len(found) / (PARTS * len(outcomes))
        units = len({*outcomes[0][0].units, *outcomes[0][1].units}) // 2
        row: dict[str, Any] = {"alpha": settings.alpha, "delta": settings.delta, "n": units, "guaranteed": share}
        if found:
            risks = np.array([risk for _, risk, _ in found])
            row |= {"held_out_risk": float(risks.mean()), "above_alpha": float((risks > settings.alpha).mean()) * share}
            row |= {"coverage": float(np.mean([one for _, _, one in found]))}
            row |= {"k": dict(sorted(Counter(policy.k for policy, _, _ in found).items()))}
        told[name] = row
        cells = [f"{row[key]:.3f}" if key in row else "-" for key in ("held_out_risk", "above_alpha", "coverage")]
        ks = ", ".join(f"{k}: {count / len(found):.0%}" for k, count in row.get("k", {}).items())
        print(f"| {name} | {settings.alpha:g} | {units} | {share:.3f} | {' | '.join(cells)} | {ks} |")
    return told


def settings_of(made: Calibration) -> CalibrationSettings:
    """What a calibration was made with."""
    told: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in made.told["settings"].items()}
    return CalibrationSettings(**told)


def joined(one: Outcomes, other: Outcomes) -> Outcomes:
    """The questions of both."""
    loss_KN = np.concatenate([one.loss_KN, other.loss_KN], axis=1)
    probability_KN = np.concatenate([one.probability_KN, other.probability_KN], axis=1)
    return Outcomes(one.ks, loss_KN, probability_KN, one.units + other.units)


def halves(both: Outcomes, settings: CalibrationSettings, parts: int, seed: int) -> list[tuple[Policy, float, float]]:
    """Of each parting whose choice is guaranteed: the choice, its risk on the other half, and the share it answers there."""
    names, found = sorted(set(both.units)), []
    for number in range(parts):
        mine = set(np.random.default_rng([seed, number]).permutation(names)[: len(names) // 2].tolist())
        first_N = np.array([unit in mine for unit in both.units])
        made = calibrate(both.of(np.flatnonzero(first_N)), settings)
        if made.guaranteed and made.chosen is not None:
            other, policy = both.of(np.flatnonzero(~first_N)), made.chosen.policy
            found.append((policy, true_risk(other, policy), float(other.under(policy)[1].mean())))
    return found


if __name__ == "__main__":
    main()
