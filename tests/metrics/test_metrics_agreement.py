"""Agreement of two who say yes and no: by hand, and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score

from medrag_lightning.metrics import Bootstrap, agreement


def test_a_case_by_hand():
    """2 both yes, 1 yes alone, 1 missed, 4 both no: 6/8 alike, F1 4/6, by chance 3/8 3/8 + 5/8 5/8 = 34/64."""
    truth = [True, True, False, True, False, False, False, False]
    said = [True, True, True, False, False, False, False, False]
    told = agreement(truth, said, list("abcdefgh"), Bootstrap(resamples=0))
    assert told.accuracy.value == 6 / 8
    assert told.f1.value == pytest.approx(4 / 6)
    assert told.kappa.value == pytest.approx((6 / 8 - 34 / 64) / (1 - 34 / 64))
    assert told.always_no.value == 5 / 8
    assert told.as_json()["accuracy"]["n"] == 8


def test_it_is_what_scikit_learn_says():
    rng = np.random.default_rng(0)
    truth = rng.random(300) < 0.3
    said = np.where(rng.random(300) < 0.2, ~truth, truth)
    told = agreement(truth.tolist(), said.tolist(), [str(n // 3) for n in range(300)])
    for name, theirs in (("accuracy", accuracy_score), ("f1", f1_score), ("kappa", cohen_kappa_score)):
        mine = getattr(told, name)
        assert mine.value == pytest.approx(theirs(truth, said))
        assert mine.low < mine.value < mine.high


def test_where_nothing_can_be_told_it_says_so():
    told = agreement([False] * 4, [False] * 4, list("abcd"))
    assert told.accuracy.value == 1.0
    assert np.isnan(told.kappa.value)
    assert np.isnan(told.f1.value)
    assert told.kappa.reason
    with pytest.raises(ValueError, match="2 labels, 1 verdicts"):
        agreement([True, False], [True], ["a", "b"])
