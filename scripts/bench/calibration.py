"""How often a calibration's guarantee fails, over many draws, and what it keeps on held-out questions of a score table.

    python scripts/bench/calibration.py --draws 400
    python scripts/bench/calibration.py --draws 0 -c data/minihospital --table runs/scores --ks 0 1 2 4 --alpha 0.3

The first draws calibration sets from worlds whose true risks are known: k alone (the specification's risks .20 .25 .29 .31
.35, n = 300, alpha .3, delta .1), and the joint choice of k, threshold and answering without evidence, with one question a
patient and with three that are much alike. A draw is a violation where any choice that is said to hold has a true risk above
alpha; it must be at most delta. The second parts the scored validation and test patients at random, calibrates on one half, and
measures on the other. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from medrag_lightning.calibration import CalibrationSettings, Outcomes, Policy, calibrate
from medrag_lightning.calibration.choosing import Procedure, true_risk

PROCEDURES: tuple[Procedure, ...] = ("bonferroni", "fixed_sequence", "graphical", "learned_sequence")
KS, RISKS = (1, 5, 10, 15, 20), (0.20, 0.25, 0.29, 0.31, 0.35)
THRESHOLDS, WITHOUT = (0.9, 0.8, 0.7, 0.6, 0.0), (None, 0.95, 0.8)
ALPHA, DELTA, JOINT_ALPHA, N = 0.3, 0.1, 0.2, 300
TRUTH = 100_000
Draw = Callable[[np.random.Generator, int], Outcomes]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints both tables, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", help="a score table to part; then -c too")
    parser.add_argument("--ks", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--alpha", type=float, default=0.3)
    parser.add_argument("--delta", type=float, default=0.1)
    parser.add_argument("--parts", type=int, default=200)
    asked, rest = parser.parse_known_args(argv)
    told: dict[str, Any] = {}
    if asked.draws:
        told |= _worlds(asked.draws, asked.seed)
    if asked.table:
        told["held_out"] = _held_out(asked, rest)
    print(json.dumps(told))


def _worlds(draws: int, seed: int) -> dict[str, Any]:
    known = {Policy(k): risk for k, risk in zip(KS, RISKS, strict=True)}
    told: dict[str, Any] = {"draws": draws, "n": N, "delta": DELTA, "k_alone": {}, "joint": {}, "joint_patients": {}}
    for procedure in PROCEDURES:
        settings = CalibrationSettings(ALPHA, DELTA, KS, procedure=procedure)
        told["k_alone"][procedure] = _violations(_plain_draw, settings, known, draws, seed, N)
    for name, each in (("joint", 1), ("joint_patients", 3)):
        draw = _knowing(each)
        truth = draw(np.random.default_rng([seed, 77]), TRUTH)
        settings = CalibrationSettings(JOINT_ALPHA, DELTA, (0, 1, 2), THRESHOLDS, WITHOUT)
        risks = {policy: true_risk(truth, policy) for policy in settings.policies()}
        for procedure in PROCEDURES:
            settings = CalibrationSettings(JOINT_ALPHA, DELTA, (0, 1, 2), THRESHOLDS, WITHOUT, procedure)
            told[name][procedure] = _violations(draw, settings, risks, draws, seed, N * each)
    for name in ("k_alone", "joint", "joint_patients"):
        for procedure, row in told[name].items():
            print(f"{name}, {procedure}: " + ", ".join(f"{key} {value}" for key, value in row.items()))
    return told


def _violations(
    draw: Draw, settings: CalibrationSettings, known: dict[Policy, float], draws: int, seed: int, n: int
) -> dict[str, float]:
    """Shares of draws: a choice that is wrongly said to hold; a wrong one taken; none that holds; and the mean coverage."""
    began, wrong, taken, empty, coverage = time.perf_counter(), 0, 0, 0, []
    for number in range(draws):
        found = calibrate(draw(np.random.default_rng([seed, number]), n), settings)
        wrong += any(row.holds and known[row.policy] > settings.alpha for row in found.tested)
        empty += not found.guaranteed
        if found.guaranteed and found.chosen is not None:
            taken += known[found.chosen.policy] > settings.alpha
            coverage.append(found.chosen.coverage)
    return {
        "violation_rate": wrong / draws,
        "taken_violates": taken / draws,
        "empty": empty / draws,
        "coverage": round(float(np.mean(coverage)), 4) if coverage else 0.0,
        "seconds": round(time.perf_counter() - began, 1),
    }


def _plain_draw(rng: np.random.Generator, n: int) -> Outcomes:
    loss_KN = (rng.random((len(KS), n)) < np.array(RISKS)[:, None]).astype(np.float64)
    return Outcomes(KS, loss_KN, np.full(loss_KN.shape, np.nan), tuple(map(str, range(n))))


def _knowing(each: int) -> Draw:
    """Readers whose probability tells how often they are right, better with evidence; questions of a patient are much alike."""

    def draw(rng: np.random.Generator, n: int) -> Outcomes:
        patients = -(-n // each)
        skill, rows = np.repeat(rng.random(patients), each)[:n], []
        for k in (0, 1, 2):
            right = np.clip(0.45 + 0.5 * skill + 0.08 * k, 0, 0.99)
            luck = np.repeat(rng.random(patients), each)[:n]
            rows.append((np.clip(right + rng.normal(0, 0.05, n), 0.01, 1), (luck >= right).astype(np.float64)))
        probability_KN, loss_KN = (np.stack([row[part] for row in rows]) for part in (0, 1))
        return Outcomes((0, 1, 2), loss_KN, probability_KN, tuple(f"p{number // each}" for number in range(n)))

    return draw


def _held_out(asked: argparse.Namespace, rest: Sequence[str]) -> dict[str, Any]:
    """Random halves of the scored patients: the risk on the other half of what was taken."""
    both = _both_splits(asked, rest)
    told: dict[str, Any] = {
        "alpha": asked.alpha,
        "delta": asked.delta,
        "questions": len(both.units),
        "patients": len(set(both.units)),
    }
    without: tuple[float | None, ...] = WITHOUT if 0 in asked.ks else (None,)
    procedures: tuple[Procedure, ...] = ("bonferroni", "learned_sequence")
    for name, thresholds, bare in (("k_alone", (0.0,), (None,)), ("joint", THRESHOLDS, without)):
        for procedure in procedures:
            settings = CalibrationSettings(asked.alpha, asked.delta, tuple(asked.ks), thresholds, bare, procedure)
            risks, coverage = _halves(both, settings, asked.parts, asked.seed)
            row = {"guaranteed": len(risks) / asked.parts}
            if risks:
                row["held_out_risk"] = round(float(np.mean(risks)), 4)
                row["above_alpha"] = float(np.mean(np.array(risks) > asked.alpha))
                row["coverage"] = round(float(np.mean(coverage)), 4)
            told[f"{name}, {procedure}"] = row
            print(f"held out, {name}, {procedure}: {row}")
    return told


def _halves(both: Outcomes, settings: CalibrationSettings, parts: int, seed: int) -> tuple[list[float], list[float]]:
    names, risks, coverage = sorted(set(both.units)), [], []
    for number in range(parts):
        mine = set(np.random.default_rng([seed, number]).permutation(names)[: len(names) // 2].tolist())
        first = np.array([unit in mine for unit in both.units])
        found = calibrate(both.of(np.flatnonzero(first)), settings)
        if found.guaranteed and found.chosen is not None:
            other = both.of(np.flatnonzero(~first))
            risks.append(true_risk(other, found.chosen.policy))
            coverage.append(float(other.under(found.chosen.policy)[1].mean()))
    return risks, coverage


def _both_splits(asked: argparse.Namespace, rest: Sequence[str]) -> Outcomes:
    from medrag_lightning.cli.verbs import build_data
    from medrag_lightning.data.calibrating import Reading, measure
    from medrag_lightning.data.scores import ScoreTable
    from medrag_lightning.records import Split

    data = build_data(rest)
    data.prepare_data()
    data.setup("predict")
    table = ScoreTable.open(asked.table)
    ks = tuple(dict.fromkeys((0, *asked.ks))) if 0 in asked.ks else tuple(asked.ks)
    found = [measure(data.world(), table, split, ks, Reading()).outcomes for split in (Split.VAL, Split.TEST)]
    loss_KN = np.concatenate([one.loss_KN for one in found], axis=1)
    probability_KN = np.concatenate([one.probability_KN for one in found], axis=1)
    return Outcomes(ks, loss_KN, probability_KN, found[0].units + found[1].units)


if __name__ == "__main__":
    main()
