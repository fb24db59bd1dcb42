"""Mixtures in closed form, and where the geometric one of JOMED's code answers otherwise."""

import numpy as np
import pytest

from medrag_lightning.mixture import fuse_steps, geometric_closed, log_softmax, mix_closed, mix_sequence, vote_open

END = 0


def test_mixture_is_in_probability_space():
    logp_KC = np.log([[0.9, 0.1], [0.2, 0.8]])
    mixed = np.exp(mix_closed(logp_KC, np.array([0.25, 0.75])))
    np.testing.assert_allclose(mixed, [0.375, 0.625])


def test_mixture_normalises_each_candidate_and_may_pick_what_none_picked():
    logp_KC = np.log([[0.5, 0.0001, 0.4], [0.0001, 0.5, 0.4]]) - 7.0
    mixed = mix_closed(logp_KC, np.array([0.5, 0.5]))
    assert np.exp(mixed).sum() == pytest.approx(1)
    assert mixed.argmax() == 2


def test_a_candidate_of_weight_zero_does_not_count():
    logp_KC = np.log([[0.9, 0.1], [0.2, 0.8]])
    np.testing.assert_allclose(np.exp(mix_closed(logp_KC, np.array([0.0, 1.0]))), [0.2, 0.8])


def test_geometric_mixture_is_the_normalised_product():
    p_KC, weight_K = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0.25, 0.75])
    product = (p_KC ** weight_K[:, None]).prod(axis=0)
    np.testing.assert_allclose(np.exp(geometric_closed(np.log(p_KC), weight_K)), product / product.sum())
    shifted = np.log(p_KC) + np.array([[5.0], [-3.0]])
    np.testing.assert_allclose(geometric_closed(shifted, weight_K), geometric_closed(np.log(p_KC), weight_K))


def test_the_two_mixtures_disagree_on_a_third_of_random_logits():
    """JOMED J09: five classes, logits of standard deviation 6, four candidates."""
    rng = np.random.default_rng(0)
    logits_NKC, weight_K = 6 * rng.standard_normal((4000, 4, 5)), np.array([0.253, 0.248, 0.253, 0.245])
    ours = np.array([mix_closed(rows, weight_K).argmax() for rows in logits_NKC])
    theirs = np.array([geometric_closed(rows, weight_K).argmax() for rows in logits_NKC])
    assert 0.30 < (ours != theirs).mean() < 0.40


def test_a_sequence_is_mixed_in_probability_space_too():
    assert mix_sequence(np.log([0.5, 0.1]), np.array([0.25, 0.75])) == pytest.approx(np.log(0.2))
    assert mix_sequence([-2000.0, -2001.0], np.array([0.5, 0.5])) == pytest.approx(-2000 + np.log((1 + np.exp(-1)) / 2))


def test_vote_takes_the_heavier_answer_and_the_earlier_on_a_tie():
    assert vote_open(["edema", "Mass", "mass"], np.array([0.4, 0.35, 0.25])) == "Mass"
    assert vote_open(["a1", "b1"], np.array([0.5, 0.5])) == "a1"


def steps(*sequences, vocabulary=4, sure=4.0):
    """Logits that make each token of each sequence the most likely at its place."""
    logits = np.zeros((len(sequences), len(sequences[0]), vocabulary))
    for k, ids in enumerate(sequences):
        logits[k, np.arange(len(ids)), list(ids)] = sure
    return logits


def test_fused_steps_are_the_argmax_of_the_weighted_logits():
    rng = np.random.default_rng(1)
    logits_KLV, weight_K = rng.standard_normal((3, 6, 9)), np.array([0.5, 0.3, 0.2])
    expected = np.einsum("k,klv->lv", weight_K, logits_KLV).argmax(axis=1).tolist()
    cut = expected[: expected.index(8)] if 8 in expected else expected
    assert fuse_steps(logits_KLV, weight_K, end_id=8, include_ended=True) == cut


def test_positions_after_a_candidates_end_are_excluded_or_as_in_jomed_included():
    """JOMED J09: candidate 0 ends at once and then says 3 very loudly; candidate 1 goes on with 1 2."""
    logits_KLV = steps([1, END, 3, 3], [1, 2, 1, END])
    logits_KLV[0, 2:] *= 5
    logits_KLV[1, 1] *= 2
    weight_K = np.array([0.5, 0.5])
    assert fuse_steps(logits_KLV, weight_K, END) == [1, 2, 1]
    assert fuse_steps(logits_KLV, weight_K, END, include_ended=True) == [1, 2, 3, 3]


def test_fusing_stops_once_every_candidate_with_weight_has_ended():
    logits_KLV = steps([1, END, 2], [1, 2, 3])
    logits_KLV[0, 1] *= 0.9  # the sum at step 1 says 2
    assert fuse_steps(logits_KLV, np.array([1.0, 0.0]), END) == [1]
    assert fuse_steps(steps([1, END], [1, END]), np.array([0.5, 0.5]), END) == [1]


def test_one_candidate_alone_is_itself():
    rng = np.random.default_rng(2)
    logp_KC = log_softmax(rng.standard_normal((1, 5)), axis=1)
    for mixture in (mix_closed, geometric_closed):
        np.testing.assert_allclose(mixture(logp_KC, np.ones(1)), logp_KC[0])


def test_steps_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        fuse_steps(np.zeros((2, 3)), np.ones(2) / 2, END)
