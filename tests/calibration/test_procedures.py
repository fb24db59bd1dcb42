"""Which hypotheses are rejected together."""

import numpy as np
import pytest

from medrag_lightning.calibration.procedures import bonferroni, fixed_sequence, graphical, neighbours


def everyone(size):
    return (np.ones((size, size)) - np.eye(size)) / max(size - 1, 1)


def holm(p_M, delta):
    held, order = np.zeros(len(p_M), bool), np.argsort(p_M, kind="stable")
    for step, place in enumerate(order):
        if p_M[place] > delta / (len(p_M) - step):
            break
        held[place] = True
    return held


def test_hand_examples():
    p_M = np.array([0.01, 0.04, 0.2, 0.001])
    assert bonferroni(p_M, 0.1).tolist() == [True, False, False, True]
    assert fixed_sequence(p_M, 0.1, [0, 1, 2, 3]).tolist() == [True, True, False, False]
    assert fixed_sequence(p_M, 0.1, [2, 0, 1, 3]).tolist() == [False] * 4
    assert graphical(p_M, 0.1, np.full(4, 0.25), everyone(4)).tolist() == [True, True, False, True]


def test_known_procedures_are_graphs():
    rng = np.random.default_rng(0)
    for _ in range(200):
        size = int(rng.integers(1, 7))
        p_M = rng.random(size) ** 3
        weight_M, alone_MM = np.full(size, 1 / size), np.zeros((size, size))
        np.testing.assert_array_equal(graphical(p_M, 0.1, weight_M, alone_MM), bonferroni(p_M, 0.1))
        np.testing.assert_array_equal(graphical(p_M, 0.1, weight_M, everyone(size)), holm(p_M, 0.1))
        chain_MM, first_M = np.eye(size, k=1), np.eye(size)[0]
        np.testing.assert_array_equal(graphical(p_M, 0.1, first_M, chain_MM), fixed_sequence(p_M, 0.1, range(size)))


def test_a_share_goes_to_neighbours_alone():
    places_MA = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [5, 5]])
    passes_MM = neighbours(places_MA)
    assert passes_MM[0].tolist() == [0, 0.5, 0.5, 0, 0]
    assert passes_MM[4].tolist() == [0] * 5
    p_M = np.array([0.0, 0.03, 0.9, 0.9, 0.021])
    assert graphical(p_M, 0.1, np.full(5, 0.2), passes_MM).tolist() == [True, True, False, False, False]


def test_the_family_s_error_is_kept():
    """Half of the hypotheses are true, p-values of these uniform and dependent: at most delta of the draws reject one."""
    rng = np.random.default_rng(1)
    places_MA = np.stack(np.meshgrid(range(3), range(4), indexing="ij"), -1).reshape(-1, 2)
    passes_MM, wrong = neighbours(places_MA), {"bonferroni": 0, "graphical": 0, "fixed": 0}
    is_true_M = np.arange(12) % 2 == 0
    for _ in range(2000):
        shared = rng.random()
        p_M = np.where(is_true_M, np.where(rng.random(12) < 0.5, shared, rng.random(12)), rng.random(12) ** 6)
        wrong["bonferroni"] += (bonferroni(p_M, 0.1) & is_true_M).any()
        wrong["graphical"] += (graphical(p_M, 0.1, np.full(12, 1 / 12), passes_MM) & is_true_M).any()
        wrong["fixed"] += (fixed_sequence(p_M, 0.1, range(11, -1, -1)) & is_true_M).any()
    assert max(wrong.values()) / 2000 <= 0.115  # 0.1 and three standard errors less than that above it
    assert wrong["fixed"] > 0


def test_a_graph_that_is_none_is_refused():
    p_M = np.zeros(2)
    for weight_M, passes_MM in (
        ([0.6, 0.6], np.zeros((2, 2))), ([0.5, 0.5], np.eye(2)), ([0.5, 0.5], np.full((2, 2), -0.1)), ([1.0], np.zeros((1, 1))),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="weights"):
            graphical(p_M, 0.1, np.array(weight_M), passes_MM)
