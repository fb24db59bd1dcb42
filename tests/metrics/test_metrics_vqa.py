"""Exactness: closed forms, equality with scikit-learn, invariances."""

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from medrag_lightning.metrics import (
    accuracy,
    balanced_accuracy,
    correct,
    exact_match,
    expected_calibration_error,
    invalid,
    macro_f1,
    reliability_bins,
    rouge_l,
    token_f1,
    token_recall,
)


def at_one(statistic, n):
    return statistic(np.ones((1, n)))[0]


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
@pytest.mark.parametrize("classes", [2, 5, 30])
@pytest.mark.parametrize("seed", range(5))
def test_equal_to_sklearn(seed, classes):
    rng = np.random.default_rng(seed)
    gold, answers = (rng.integers(0, classes, 40).astype(str).tolist() for _ in range(2))
    assert at_one(accuracy(gold, answers), 40) == pytest.approx(accuracy_score(gold, answers), abs=1e-12)
    assert at_one(macro_f1(gold, answers), 40) == pytest.approx(f1_score(gold, answers, average="macro"), abs=1e-12)
    expected = balanced_accuracy_score(gold, answers)
    assert at_one(balanced_accuracy(gold, answers), 40) == pytest.approx(expected, abs=1e-12)


def test_weights_are_repetitions():
    rng = np.random.default_rng(1)
    gold, answers = (rng.integers(0, 4, 25).astype(str) for _ in range(2))
    drawn = rng.integers(0, 25, 25)
    weights = np.bincount(drawn, minlength=25)[None].astype(float)
    expected = f1_score(gold[drawn], answers[drawn], average="macro")
    assert macro_f1(gold.tolist(), answers.tolist())(weights)[0] == pytest.approx(expected, abs=1e-12)


def test_invalid_is_wrong_and_no_class():
    gold, answers = ["yes", "yes", "no", "no"], ["yes", None, "no", "no"]
    assert correct(gold, answers).tolist() == [1, 0, 1, 1]
    assert at_one(macro_f1(gold, answers), 4) == pytest.approx((2 / 3 + 1) / 2)
    assert at_one(balanced_accuracy(gold, answers), 4) == pytest.approx(0.75)
    assert at_one(invalid(answers), 4) == 0.25


def test_case_does_not_make_a_class():
    assert at_one(macro_f1(["Yes", "no"], ["yes", "No"]), 2) == 1


def test_always_the_majority_is_half_balanced():
    gold, answers = ["yes"] * 9 + ["no"], ["yes"] * 10
    assert at_one(accuracy(gold, answers), 10) == pytest.approx(0.9)
    assert at_one(balanced_accuracy(gold, answers), 10) == 0.5


def test_order_does_not_matter():
    rng = np.random.default_rng(2)
    gold, answers = (rng.integers(0, 3, 30).astype(str) for _ in range(2))
    probability, order = rng.random(30), rng.permutation(30)
    outcome = gold == answers
    for statistic in (accuracy, balanced_accuracy, macro_f1):
        assert at_one(statistic(gold, answers), 30) == pytest.approx(at_one(statistic(gold[order], answers[order]), 30))
    shuffled = expected_calibration_error(probability[order], outcome[order])
    assert at_one(expected_calibration_error(probability, outcome), 30) == pytest.approx(at_one(shuffled, 30))


def test_open_scores_by_hand():
    gold = ["left temporal lobe", "the lung", "mass mass", "x-ray", "", "+"]
    answers = ["the left lobe", "Lung.", "mass", None, "x", "+"]
    assert exact_match(gold, answers).tolist() == [0, 1, 0, 0, 0, 1]
    assert token_recall(gold, answers)[:4].tolist() == pytest.approx([2 / 3, 1, 0.5, 0])
    assert token_f1(gold, answers)[:4].tolist() == pytest.approx([4 / 5, 1, 2 / 3, 0])
    assert math.isnan(token_recall(gold, answers)[4])
    assert token_recall(gold, answers)[5] == 1


def test_rouge_l_by_hand_counts_the_order_of_words():
    gold = ["police killed the gunman", "left lung", "left lung", "mass", "lung", " "]
    answers = ["police kill the gunman", "lung left", "The left lung.", None, "small lung nodule", "x"]
    # without articles: police gunman of police killed gunman, police kill gunman; one word of two; all; none; one of 1 and 3
    assert rouge_l(gold, answers)[:5].tolist() == pytest.approx([2 * 2 / 6, 2 * 1 / 4, 1, 0, 2 * 1 / 4])
    assert math.isnan(rouge_l(gold, answers)[5])
    assert token_f1(gold, answers)[1] == 1


def test_repeating_a_word_does_not_raise_recall():
    assert token_recall(["left lung"], ["left left left"])[0] == 0.5


def test_ece_by_hand():
    # bin (.53, .6]: 0.55 twice, one right: gap .05; bin (.93, 1]: 0.95 twice, none right: gap .95
    statistic = expected_calibration_error([0.55, 0.55, 0.95, 0.95], [1, 0, 0, 0])
    assert at_one(statistic, 4) == pytest.approx(0.5 * 0.05 + 0.5 * 0.95)


def test_calibrated_is_zero_and_edges_belong_to_the_lower_bin():
    assert at_one(expected_calibration_error([1.0, 1.0], [1, 1]), 2) == 0
    bins = reliability_bins([0.0, 0.2, 0.200001, 1.0], [0, 0, 1, 1], bins=5)
    assert [b.count for b in bins] == [2, 1, 0, 0, 1]
    assert math.isnan(bins[2].accuracy)
    assert bins[1].mean_probability == pytest.approx(0.200001)


def test_ece_equals_its_reliability_bins():
    rng = np.random.default_rng(3)
    probability = rng.uniform(0.2, 1, 200)
    outcome = (rng.random(200) < probability).astype(float)
    bins = [b for b in reliability_bins(probability, outcome) if b.count]
    gaps = [b.count / 200 * abs(b.accuracy - b.mean_probability) for b in bins]
    assert at_one(expected_calibration_error(probability, outcome), 200) == pytest.approx(sum(gaps))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="2 gold answers for 1"):
        accuracy(["a", "b"], ["a"])
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        expected_calibration_error([1.2], [1])
