"""Noise curves: paired, on the same queries, against numbers made by hand, and honest where a ratio does not exist."""

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest

from medrag_lightning.metrics import Bootstrap, analyse, by_system, loss_ratio, noise_curves, summarise
from medrag_lightning.records import AnswerType, Noise, NoiseKind, Prediction, Regime

YES_NO = ("yes", "no")
FEW = Bootstrap(resamples=400)
SHARES = (0.25, 0.5)


def prediction(i, right, system="", noise=None, regime=Regime.RETRIEVED):
    gold = YES_NO[i % 2]
    answer = gold if right else YES_NO[1 - i % 2]
    return Prediction(f"q{i}", regime, answer, answer, gold, AnswerType.CLOSED, YES_NO, system=system, noise=noise)


def world(falls, n=400, kind=NoiseKind.IRRELEVANT, best=0.9):
    """Systems whose expected accuracy falls linearly by `falls[system]` at share 1; nested: what is lost stays lost."""
    made = []
    for system, fall in falls.items():
        for i in range(n):
            luck = random.Random(f"{system} {i}").random()
            made.append(prediction(i, luck < best, system))
            made += [prediction(i, luck < best - fall * share, system, Noise(kind, share)) for share in SHARES]
    return made


def clusters(n=400, size=1):
    return {f"q{i}": f"p{i // size}" for i in range(n)}


def test_points_are_accuracies_and_paired_changes_by_hand():
    made = world({"": 0.6, "mcr": 0.2})
    curves = noise_curves(made, clusters(), FEW, "retrieved")
    accuracy = {(p.system, p.share): p for p in curves.points if p.metric == "closed_accuracy"}
    assert list(accuracy) == [(name, share) for name in ("retrieved", "mcr") for share in (0.0, *SHARES)]
    for (system, share), point in accuracy.items():
        key = "" if system == "retrieved" else system
        mine = [p for p in made if p.system == key and (p.noise.share if p.noise else 0.0) == share]
        clean = [p for p in made if p.system == key and p.noise is None]
        right = np.array([p.answer == p.gold for p in mine], float)
        assert point.value.value == pytest.approx(right.mean())
        assert point.value.low < point.value.value < point.value.high
        if share:
            gap = right - np.array([p.answer == p.gold for p in clean], float)
            assert point.change.value == pytest.approx(gap.mean())
            drawn = np.concatenate([weights @ gap for weights in FEW.weights([f"p{i}" for i in order_of(mine)])]) / 400
            assert (point.change.low, point.change.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.012)
        else:
            assert point.change is None
    assert {p.metric for p in curves.points} == {"closed_accuracy", "closed_macro_f1"}
    assert all(p.kind is NoiseKind.IRRELEVANT for p in curves.points)


def order_of(predictions):
    return [int(p.query_id[1:]) for p in predictions]


def test_pairing_makes_changes_sharper_than_two_intervals():
    curves = noise_curves(world({"": 0.3}), clusters(), FEW, "retrieved")
    clean, _, half = [p for p in curves.points if p.metric == "closed_accuracy"]
    apart = math.hypot(clean.value.high - clean.value.low, half.value.high - half.value.low)
    assert half.change.high - half.change.low < 0.9 * apart


def test_the_ratio_of_losses_is_exact_and_its_interval_covers():
    curves = noise_curves(world({"": 0.8, "mcr": 0.2}, n=1500), clusters(1500), FEW, "retrieved")
    (half,) = [r for r in curves.ratios if r.share == 0.5 and r.metric == "closed_accuracy"]
    assert (half.system, half.baseline) == ("mcr", "retrieved")
    assert half.ratio.value == pytest.approx(half.loss.value / half.baseline_loss.value)
    assert half.ratio.low < 0.25 < half.ratio.high < 0.5
    assert half.beyond_half.value == pytest.approx(half.loss.value - half.baseline_loss.value / 2)
    assert half.beyond_half.high < 0


def test_a_system_that_loses_as_much_is_not_said_to_lose_less_than_half():
    curves = noise_curves(world({"": 0.8, "mcr": 0.8}), clusters(), FEW, "retrieved")
    (half,) = [r for r in curves.ratios if r.share == 0.5 and r.metric == "closed_accuracy"]
    assert half.ratio.low < 1 < half.ratio.high
    assert half.beyond_half.low > 0


def test_a_baseline_that_loses_nothing_gives_no_ratio():
    curves = noise_curves(world({"": 0.0, "mcr": 0.4}), clusters(), FEW, "retrieved")
    ratio = next(r.ratio for r in curves.ratios if r.share == 0.5)
    assert math.isnan(ratio.value)
    assert ratio.reason == "retrieved loses nothing: no ratio"
    small = noise_curves(world({"": 0.01, "mcr": 0.4}, n=200), clusters(200), FEW, "retrieved")
    ratio = next(r.ratio for r in small.ratios if r.share == 0.5)
    assert math.isnan(ratio.low)
    assert "no ratio" in ratio.reason


def test_patients_are_drawn_together():
    made = world({"": 0.6}, n=400)
    made = [replace(p, query_id=f"q{4 * i + j}") for p in made for i in [int(p.query_id[1:])] if i < 100 for j in range(4)]
    alone = noise_curves(made, {f"q{i}": f"p{i}" for i in range(400)}, FEW, "retrieved").points[2].change
    together = noise_curves(made, clusters(400, 4), FEW, "retrieved").points[2].change
    assert together.value == alone.value
    assert together.high - together.low > 1.6 * (alone.high - alone.low)


def test_curves_are_of_the_queries_that_all_systems_answered():
    made = [p for p in world({"": 0.6, "mcr": 0.2}) if not (p.system == "mcr" and p.noise and int(p.query_id[1:]) >= 100)]
    none = [prediction(i, i % 3 == 0, regime=Regime.NONE) for i in range(400)]
    curves = noise_curves([*made, *none], clusters(), FEW, "retrieved", ("no retrieval", "majority"))
    assert {p.value.n for p in curves.points} == {100}
    assert {(p.system, p.value.n) for p in curves.references} == {("no retrieval", 100)}


def test_kinds_and_answer_types_stand_apart():
    closed = world({"": 0.6}, 100)
    opened = [Prediction(f"o{i}", Regime.RETRIEVED, "left lobe", "left lobe", "left lobe", AnswerType.OPEN) for i in range(50)]
    blank = [replace(p, answer="lobe", noise=Noise(NoiseKind.BLANK_IMAGE, 1.0)) for p in opened]
    groups = clusters(100) | {p.query_id: p.query_id for p in opened}
    curves = noise_curves([*closed, *opened, *blank], groups, FEW, "retrieved")
    mine = [p for p in curves.points if p.kind is NoiseKind.BLANK_IMAGE]
    assert [(p.metric, p.share, p.value.value, p.value.n) for p in mine] == [
        ("open_token_recall", 0.0, 1.0, 50), ("open_token_recall", 1.0, 0.5, 50)
    ]  # fmt: skip
    assert {p.metric for p in curves.points if p.kind is NoiseKind.IRRELEVANT} == {"closed_accuracy", "closed_macro_f1"}


def test_noise_is_in_no_ordinary_row():
    noisy = world({"": 0.6, "mcr": 0.2}, 60)
    clean = [p for p in noisy if p.noise is None]
    assert by_system(noisy) == by_system(clean)
    assert summarise(noisy, settings=FEW) == summarise(clean, settings=FEW)
    assert analyse(noisy, settings=FEW) == analyse(clean, settings=FEW)


def test_what_has_no_share_0_has_no_curve_and_is_named():
    made = [p for p in world({"": 0.6, "mcr": 0.2}, 50) if p.system == "" or p.noise]
    curves = noise_curves(made, clusters(50), FEW, "retrieved")
    assert {p.system for p in curves.points} == {"retrieved"}
    assert curves.notes == ("mcr: no curve of irrelevant noise, because its ordinary predictions are not there",)


def test_json_holds_every_number_without_nan():
    curves = noise_curves(world({"": 0.0, "mcr": 0.4}, 50), clusters(50), FEW, "retrieved")
    told = json.loads(json.dumps(curves.as_json(), allow_nan=False))
    assert told["points"][0] | {"change": None, "change_low": None} == told["points"][0]
    assert {"kind", "share", "system", "metric", "value", "low", "high", "n", "reason"} < set(told["points"][0])
    assert told["loss_ratios"][0]["ratio"]["value"] is None


def test_faults_are_refused():
    made = world({"": 0.6}, 20)
    with pytest.raises(ValueError, match=r"'retrieved' answers query 'q0' more than once under irrelevant 0\.5"):
        noise_curves([*made, made[2]], clusters(20), FEW, "retrieved")
    clean, noisy = made[0::3], made[2::3]
    with pytest.raises(ValueError, match="same queries in the same order"):
        loss_ratio(clean, noisy[::-1], clean, noisy, "closed_accuracy", clusters(20), FEW)
    with pytest.raises(ValueError, match="carry no noise"):
        loss_ratio(clean, clean, clean, noisy, "closed_accuracy", clusters(20), FEW)
