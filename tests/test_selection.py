"""How many candidates are kept: hand-worked, and never none nor NaN whatever the scores."""

import math
from itertools import pairwise, product

import numpy as np
import pytest

from medrag_lightning.selection import Selection, log_gap_count, ratio_count, top_k_count

SPEC = (0.9, 0.8, 0.5, 0.2, -0.1, -0.3)  # HeteroRAG spec, trap 4
MAPPED = (0.95, 0.9, 0.75, 0.6, 0.45, 0.35)


def test_the_spec_s_example_by_hand():
    gaps = [math.log(a / b) for a, b in pairwise(MAPPED)]  # .054 .182 .223 .288 .251
    for gamma, kept in ((0.05, 1), (0.1, 2), (0.2, 3), (0.25, 4), (0.3, 6)):
        assert Selection("log_gap", cut=gamma).count(SPEC) == kept
        assert kept == next((at for at, gap in enumerate(gaps, 1) if gap > gamma), 6)
    for ratio, kept in ((1.01, 1), (1.1, 2), (1.3, 3), (1.5, 3), (1.6, 4), (3.0, 6)):
        assert Selection("ratio", cut=ratio).count(SPEC) == kept
        assert kept == sum(MAPPED[0] / score < ratio for score in MAPPED)


def test_raw_negatives_are_what_the_mapping_is_for():
    raw = [SPEC[0] / score < 1.5 for score in SPEC]
    assert raw == [True, True, False, False, True, True]  # the released rule keeps both negatives
    assert Selection("ratio", cut=1.5).count(SPEC) == 3


@pytest.mark.parametrize("rule", ["log_gap", "ratio", "top_k"])
@pytest.mark.parametrize(
    ("scores", "kept"), [((), 0), ((0.4,), 1), ((-1.0,), 1), ((0.3,) * 7, 4), ((-1.0,) * 3, 3), ((1.0,) * 4, 4)]
)
def test_ties_single_negative_and_equal_scores(rule, scores, kept):
    assert Selection(rule, k=4).count(scores) == kept


def test_defaults_are_the_documented_ones():
    assert Selection().count(SPEC) == Selection("log_gap", 10, 0.2).count(SPEC) == 3
    assert Selection("ratio").count(SPEC) == Selection("ratio", 10, 1.5).count(SPEC) == 3
    assert Selection("top_k", 4).count(SPEC) == 4


def test_a_fall_to_the_least_similarity_is_a_gap_and_not_an_error():
    assert Selection("log_gap").count((0.5, -1.0, -1.0)) == 1
    assert Selection("ratio").count((0.5, -1.0, -1.0)) == 1
    assert Selection("log_gap", cut=1e9).count((0.5, 0.4, -1.0)) == 2


def test_equal_scores_stay_together_and_the_cut_is_no_part_of_the_gap():
    assert log_gap_count((4.0, 4.0, 2.0, 2.0), math.log(2), 9) == 4  # the gap equals gamma
    assert log_gap_count((4.0, 4.0, 2.0, 2.0), math.log(1.99), 9) == 2
    assert ratio_count((4.0, 4.0, 2.0), 2.0, 9) == 2
    assert top_k_count((1.0, 2.0), 1) == 1


def test_never_none_never_nan_always_a_beginning():
    rng = np.random.default_rng(0)
    lists = [sorted(row, reverse=True) for row in rng.uniform(-1.1, 1.1, (100, 6)).tolist()]
    lists += [sorted(row, reverse=True) for row in product((-1.0, 0.0, 1.0), repeat=3)]
    for scores in lists:
        for rule, k in product(("log_gap", "ratio", "top_k"), (1, 3, 10)):
            kept = Selection(rule, k).count(scores)
            assert isinstance(kept, int)
            assert 1 <= kept <= min(k, len(scores))
            assert Selection(rule, k + 1).count(scores) >= kept


def test_a_higher_cut_keeps_no_fewer():
    for rule, cuts in (("log_gap", (0.01, 0.1, 0.5, 2.0)), ("ratio", (1.01, 1.2, 2.0, 9.0))):
        counts = [Selection(rule, cut=cut).count(SPEC) for cut in cuts]
        assert counts == sorted(counts)
        assert counts[0] < counts[-1]


def test_scores_of_other_kinds():
    assert Selection("log_gap", cut=0.5, scores="positive").count((20.0, 18.0, 5.0)) == 2
    with pytest.raises(ValueError, match="scores: cosine"):
        Selection(scores="positive").count((1.0, -0.1))
    with pytest.raises(ValueError, match="NaN"):
        Selection().count((0.5, float("nan")))
    with pytest.raises(ValueError, match="rise along"):
        Selection().count((0.5, 0.7))
    assert Selection().count((0.5, 0.5 + 1e-9)) == 2


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"k": 0}, "at least 1"),
        ({"rule": "top_k", "cut": 0.5}, "would be ignored"),
        ({"cut": 0.0}, "above 0"),
        ({"rule": "ratio", "cut": 1.0}, "above 1"),
        ({"cut": float("nan")}, "above 0"),
    ],
)
def test_settings_that_make_no_sense(settings, told):
    with pytest.raises(ValueError, match=told):
        Selection(**settings)


def test_fingerprint_follows_the_settings():
    assert Selection().fingerprint() == Selection().fingerprint()
    assert (
        len({Selection(**s).fingerprint() for s in ({}, {"k": 3}, {"cut": 0.3}, {"rule": "ratio"}, {"scores": "positive"})})
        == 5
    )
