import numpy as np
import pytest

from medrag_lightning.mixture import candidate_weights, mix_closed, vote_open


def test_weights_are_a_softmax_per_channel_and_channels_count_alike():
    weights = candidate_weights([0.9, 0.8, 0.3], ["image", "image", "text"], temperature=0.1)
    assert weights.sum() == pytest.approx(1)
    assert weights[2] == pytest.approx(0.5)
    assert weights[0] / weights[1] == pytest.approx(np.exp(1))


def test_negative_scores_keep_their_order():
    weights = candidate_weights([-0.1, -0.5], ["image", "image"], temperature=1.0)
    assert weights[0] > weights[1]


def test_mixture_is_in_probability_space():
    logp_KC = np.log([[0.9, 0.1], [0.2, 0.8]])
    mixed = np.exp(mix_closed(logp_KC, np.array([0.25, 0.75])))
    np.testing.assert_allclose(mixed, [0.375, 0.625])


def test_mixture_normalises_each_candidate_and_may_pick_what_none_picked():
    logp_KC = np.log([[0.5, 0.0001, 0.4], [0.0001, 0.5, 0.4]]) - 7.0
    mixed = mix_closed(logp_KC, np.array([0.5, 0.5]))
    assert np.exp(mixed).sum() == pytest.approx(1)
    assert mixed.argmax() == 2


def test_vote_takes_the_heavier_answer_and_the_earlier_on_a_tie():
    assert vote_open(["edema", "Mass", "mass"], np.array([0.4, 0.35, 0.25])) == "Mass"
    assert vote_open(["a1", "b1"], np.array([0.5, 0.5])) == "a1"


@pytest.mark.parametrize(("scores", "channels", "temperature"), [([], [], 1.0), ([1.0], [], 1.0), ([1.0], ["a"], 0.0)])
def test_bad_input_is_refused(scores, channels, temperature):
    with pytest.raises(ValueError):
        candidate_weights(scores, channels, temperature)
