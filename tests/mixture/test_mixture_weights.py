"""Candidate weights: JOMED's example to three digits, and what its normalisation gets wrong."""

import numpy as np
import pytest

from medrag_lightning.mixture import candidate_weights

IMAGE, TEXT = "image_to_image", "image_to_text"


def test_weights_are_a_softmax_per_channel_and_channels_count_alike():
    weights = candidate_weights([0.9, 0.8, 0.3], ["image", "image", "text"], temperature=0.1)
    assert weights.sum() == pytest.approx(1)
    assert weights[2] == pytest.approx(0.5)
    assert weights[0] / weights[1] == pytest.approx(np.exp(1))


def test_divide_by_max_gives_the_numbers_of_the_released_code():
    """JOMED J08."""
    weights = candidate_weights([0.90, 0.88, 0.31, 0.30], [IMAGE, IMAGE, TEXT, TEXT], 1.0, "divide_by_max")
    assert np.round(weights, 3).tolist() == [0.253, 0.248, 0.253, 0.245]


def test_a_negative_maximum_flips_the_order_there_and_not_here():
    """JOMED J08: scores below 0 divided by their largest."""
    theirs = candidate_weights([-0.1, -0.5], [IMAGE, IMAGE], 1.0, "divide_by_max")
    assert theirs[0] < theirs[1]
    for ours in ("per_head_softmax", "joint_softmax"):
        weights = candidate_weights([-0.1, -0.5], [IMAGE, IMAGE], 1.0, ours)
        assert weights[0] > weights[1]


def test_scores_of_zero_stay_alike():
    assert candidate_weights([0.0, 0.0], ["given", "given"], 1.0, "divide_by_max").tolist() == [0.5, 0.5]


def test_joint_softmax_compares_heads_by_their_scores():
    weights = candidate_weights([0.9, 0.3], [IMAGE, TEXT], 0.1, "joint_softmax")
    assert weights[0] / weights[1] == pytest.approx(np.exp(6))


def test_heads_can_be_weighted_and_absent_ones_do_not_count():
    heads = {IMAGE: 0.75, TEXT: 0.25}
    weights = candidate_weights([0.9, 0.9, 0.3], [IMAGE, IMAGE, TEXT], 0.1, head_weights=heads)
    np.testing.assert_allclose(weights, [0.375, 0.375, 0.25])
    assert candidate_weights([0.3], [TEXT], 0.1, head_weights=heads).tolist() == [1.0]
    assert candidate_weights([0.0, 0.0], ["given", "given"], 0.1, head_weights=heads).tolist() == [0.5, 0.5]


def test_weights_follow_their_candidates():
    scores, channels, heads = [0.9, 0.3, 0.8, 0.2], [IMAGE, TEXT, IMAGE, TEXT], {IMAGE: 0.3, TEXT: 0.7}
    weights = candidate_weights(scores, channels, 0.2, head_weights=heads)
    order = [3, 1, 0, 2]
    moved = candidate_weights([scores[i] for i in order], [channels[i] for i in order], 0.2, head_weights=heads)
    np.testing.assert_allclose(moved, weights[order])


@pytest.mark.parametrize(("scores", "channels", "temperature"), [([], [], 1.0), ([1.0], [], 1.0), ([1.0], ["a"], 0.0)])
def test_bad_input_is_refused(scores, channels, temperature):
    with pytest.raises(ValueError):
        candidate_weights(scores, channels, temperature)


@pytest.mark.parametrize(("heads", "message"), [({IMAGE: 1.0}, "lack"), ({IMAGE: 0.0, TEXT: 0.0}, "weigh 0")])
def test_head_weights_that_do_not_fit_are_refused(heads, message):
    with pytest.raises(ValueError, match=message):
        candidate_weights([0.9, 0.3], [IMAGE, TEXT], 0.1, head_weights=heads)
