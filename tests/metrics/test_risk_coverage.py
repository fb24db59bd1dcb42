"""Risk against coverage: closed forms, ties, and a rule that keeps its promise."""

import numpy as np
import pytest

from medrag_lightning.metrics import abstention_rule, area_under_risk_coverage, risk_coverage
from medrag_lightning.metrics.risk_coverage import wilson_upper


def area(probability, correct, weights=None):
    once = np.ones((1, len(correct))) if weights is None else np.array([weights], float)
    return float(area_under_risk_coverage(probability, correct)(once)[0])


def test_the_curve_and_its_area_in_closed_form():
    curve = risk_coverage([0.6, 0.9, 0.8, 0.7], [0, 1, 1, 0])
    assert curve.threshold_G.tolist() == [0.9, 0.8, 0.7, 0.6]
    assert curve.coverage_G.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk_G == pytest.approx([0, 0, 1 / 3, 0.5])
    assert area([0.6, 0.9, 0.8, 0.7], [0, 1, 1, 0]) == pytest.approx((1 / 3 + 0.5) / 4)
    assert area([0.9, 0.6, 0.7, 0.8], [0, 1, 1, 0]) > 0.5, "a wrong order is worse than none"


def test_ties_are_accepted_together_in_any_order():
    curve = risk_coverage([0.5, 0.5, 0.9], [1, 0, 1])
    assert curve.threshold_G.tolist() == [0.9, 0.5]
    assert curve.risk_G == pytest.approx([0, 1 / 3])
    assert area([0.5, 0.5, 0.9], [1, 0, 1]) == area([0.5, 0.5, 0.9], [0, 1, 1]) == pytest.approx(2 / 9)
    assert area([0.5] * 4, [1, 0, 0, 0]) == pytest.approx(0.75), "no order at all: the risk of answering everything"


def test_weights_stand_for_repeated_questions():
    rng = np.random.default_rng(0)
    probability, correct, weights = rng.random(20), rng.integers(0, 2, 20), rng.integers(0, 4, 20)
    repeated = area(np.repeat(probability, weights), np.repeat(correct, weights))
    assert area(probability, correct, weights) == pytest.approx(repeated)


def test_the_rule_answers_most_within_the_risk():
    rng = np.random.default_rng(1)
    probability = rng.uniform(0.5, 1, 4000)
    correct = (rng.random(4000) < probability).astype(float)
    rule = abstention_rule(probability, correct, 0.1)
    assert rule is not None
    kept = probability >= rule.threshold
    assert (rule.answered, rule.n) == (kept.sum(), 4000)
    assert rule.risk == pytest.approx(1 - correct[kept].mean())
    assert rule.risk <= rule.risk_bound <= 0.1
    assert 0.75 < rule.threshold < 0.9, "calibrated: the mean above t is (1 + t) / 2, so t is near 0.8"
    assert abstention_rule([0.9] * 5, [1] * 5, 0.1) is None, "five right answers bound no risk at 10 %"
    assert abstention_rule([0.9] * 200, [1] * 200, 0.1).coverage == 1
    with pytest.raises(ValueError, match="max_risk"):
        abstention_rule(probability, correct, 1.0)
    with pytest.raises(ValueError, match="at least one"):
        risk_coverage([], [])


def test_wilson_bound_against_known_values():
    assert wilson_upper(0, 10, 1.96) == pytest.approx(0.2775, abs=1e-4)
    assert wilson_upper(5, 10, 1.96) == pytest.approx(0.7634, abs=1e-4)
    assert wilson_upper(0, 0) == 1
