import math

import numpy as np
import pytest
import torch

from medrag_lightning.losses import chosen_nll, preference_loss, preference_margin, weighted_mean

KINDS = ("dpo", "ipo", "hinge", "robust")
SMOOTHING = {"dpo": 0.1, "robust": 0.2, "ipo": 0.0, "hinge": 0.0}
AT_REFERENCE = {"dpo": math.log(2), "robust": math.log(2), "ipo": 1 / (4 * 0.3**2), "hinge": 1.0}


def pairs(count=6, seed=0, dtype=torch.float32):
    rng = np.random.default_rng(seed)
    policy, reference = (torch.tensor(-rng.uniform(0.1, 9, (count, 2)), dtype=dtype) for _ in range(2))
    tokens, weight = torch.tensor(rng.integers(1, 7, (count, 2))), torch.tensor(rng.uniform(0.2, 3, count), dtype=dtype)
    return policy, reference, tokens, weight


def plain(kind, policy, reference, tokens, weight, beta, e):
    """A float64 loop over pairs, as the papers write it."""
    total = 0.0
    for p, r, n, w in zip(policy.tolist(), reference.tolist(), tokens.tolist(), weight.tolist(), strict=True):
        m = (p[0] - r[0]) / n[0] - (p[1] - r[1]) / n[1]
        right, flipped = (-math.log(1 / (1 + math.exp(-x))) for x in (beta * m, -beta * m))
        total += w * {
            "dpo": (1 - e) * right + e * flipped,
            "ipo": (m - 0.5 / beta) ** 2,
            "hinge": max(0.0, 1 - beta * m),
            "robust": ((1 - e) * right - e * flipped) / (1 - 2 * e),
        }[kind]
    return total / sum(weight.tolist())


def loss_of(kind, policy, reference, tokens, weight, beta=0.3):
    margin = preference_margin(policy, reference, tokens)
    return weighted_mean(preference_loss(kind, margin, beta, SMOOTHING[kind]), weight)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalised", [False, True])
def test_equals_a_plain_loop_in_float64(kind, normalised):
    policy, reference, tokens, weight = pairs()
    used = tokens if normalised else None
    expected = plain(kind, policy, reference, tokens if normalised else torch.ones_like(tokens), weight, 0.3, SMOOTHING[kind])
    assert float(loss_of(kind, policy, reference, used, weight)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_value_where_the_policy_is_the_reference(kind):
    policy, _, tokens, weight = pairs()
    assert float(loss_of(kind, policy, policy, tokens, weight)) == pytest.approx(AT_REFERENCE[kind], rel=1e-6)


def test_a_pair_by_hand():
    """Chosen gains 2 nats over the reference, rejected 0.5: m = 1.5, and at beta 0.1 the loss is ln(1 + e^-0.15)."""
    margin = preference_margin(torch.tensor([[-1.0, -4.0]]), torch.tensor([[-3.0, -4.5]]))
    assert margin.tolist() == pytest.approx([1.5])
    assert preference_loss("dpo", margin, 0.1).item() == pytest.approx(0.62095676)
    assert preference_loss("hinge", margin, 0.1).item() == pytest.approx(0.85)
    assert preference_loss("ipo", margin, 0.1).item() == pytest.approx(3.5**2)
    assert preference_loss("dpo", margin, 0.1, 0.25).item() == pytest.approx(0.62095676 + 0.25 * 0.15)
    assert preference_loss("robust", margin, 0.1, 0.25).item() == pytest.approx(0.62095676 - 0.25 * 0.15 / 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_raises_the_chosen_and_lowers_the_rejected_side(kind):
    policy, _, _, weight = pairs()
    policy.requires_grad_()
    loss_of(kind, policy, policy.detach(), None, weight).backward()
    assert bool((policy.grad[:, 0] < 0).all())
    assert bool((policy.grad[:, 1] > 0).all())
    torch.testing.assert_close(policy.grad[:, 0], -policy.grad[:, 1])


def test_dpo_weighs_a_pair_by_how_wrong_it_is():
    """Eq. 7: the gradient of a pair is -beta sigma(-beta m) on the chosen side."""
    policy, reference, _, _ = pairs()
    policy.requires_grad_()
    margin = preference_margin(policy, reference)
    preference_loss("dpo", margin, 0.3).sum().backward()
    torch.testing.assert_close(policy.grad[:, 0], -0.3 * torch.sigmoid(-0.3 * margin.detach()))


def test_the_reference_gets_no_gradient():
    policy, reference, _, weight = pairs()
    reference.requires_grad_()
    loss_of("dpo", policy.requires_grad_(), reference, None, weight).backward()
    assert reference.grad is None


@pytest.mark.parametrize("kind", KINDS)
def test_order_and_scale_of_weights_do_not_matter(kind):
    policy, reference, tokens, weight = pairs()
    loss = loss_of(kind, policy, reference, tokens, weight)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(loss_of(kind, policy[order], reference[order], tokens[order], weight[order]), loss)
    torch.testing.assert_close(loss_of(kind, policy, reference, tokens, 7 * weight), loss)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_of_weight_zero_counts_for_nothing(kind):
    policy, reference, tokens, weight = pairs()
    loss = loss_of(kind, policy[:4], reference[:4], tokens[:4], weight[:4])
    weight[4:], policy[4] = 0.0, -torch.inf
    torch.testing.assert_close(loss_of(kind, policy, reference, tokens, weight), loss)
    assert float(loss_of(kind, policy[:4], reference[:4], tokens[:4], 0 * weight[:4])) == 0


def test_a_weight_of_two_is_a_pair_twice():
    policy, reference, tokens, _ = pairs(3)
    twice = [0, 1, 1, 2]
    once = loss_of("dpo", policy, reference, tokens, torch.tensor([1.0, 2.0, 1.0]))
    torch.testing.assert_close(once, loss_of("dpo", policy[twice], reference[twice], tokens[twice], torch.ones(4)))


def test_ipo_is_best_at_its_own_margin_and_hinge_is_flat_beyond_its():
    margin = torch.linspace(-3, 9, 1201, dtype=torch.float64)
    assert float(margin[preference_loss("ipo", margin, 0.25).argmin()]) == pytest.approx(1 / (2 * 0.25))
    hinge = preference_loss("hinge", margin, 0.25)
    assert bool(((hinge == 0) == (margin >= 4)).all())


def test_perfect_values():
    far = torch.tensor([1e4])
    assert preference_loss("dpo", far, 0.1).item() == 0
    smoothed = preference_loss("dpo", torch.linspace(0, 60, 6001, dtype=torch.float64), 0.1, 0.1)
    assert float(smoothed.min()) == pytest.approx(-0.1 * math.log(0.1) - 0.9 * math.log(0.9), abs=1e-6)
    assert preference_loss("robust", far, 0.1, 0.1).item() < 0


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind):
    policy, reference, tokens, weight = pairs(dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: loss_of(kind, p, reference, tokens, weight), policy.requires_grad_())


def test_half_precision_is_computed_in_float32():
    policy, reference, _, weight = pairs()
    half = loss_of("dpo", policy.bfloat16(), reference.bfloat16(), None, weight)
    exact = loss_of("dpo", policy.bfloat16().float(), reference.bfloat16().float(), None, weight)
    assert half.dtype == torch.float32
    assert torch.equal(half, exact)


def test_nll_of_chosen_answers_is_a_mean_over_tokens():
    value = chosen_nll(torch.tensor([-2.0, -6.0]), torch.tensor([1, 3]), torch.tensor([1.0, 2.0]))
    assert float(value) == pytest.approx((2 + 12) / (1 + 6))
    assert float(chosen_nll(torch.zeros(2), torch.ones(2), torch.ones(2))) == 0


def test_two_processes_with_half_the_pairs_each_sum_to_the_whole():
    policy, reference, tokens, weight = pairs()
    value = preference_loss("dpo", preference_margin(policy, reference), 0.1)
    halves = [weighted_mean(value[part], weight[part], weight.sum() / 2) for part in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(sum(halves) / 2, weighted_mean(value, weight))
    count = (weight * tokens[:, 0]).sum()
    nlls = [chosen_nll(policy[p, 0], tokens[p, 0], weight[p], count / 2) for p in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(sum(nlls) / 2, chosen_nll(policy[:, 0], tokens[:, 0], weight))
