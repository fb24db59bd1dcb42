"""M17: the policy gradient's closed form, zero case, invariances and signs; a bandit learns by it."""

import pytest
import torch

from medrag_lightning.losses import mean_of_others, reinforce, reward

ALL = torch.ones(1, 3, dtype=torch.bool)


def test_reward_is_the_weighted_sum_without_a_gradient():
    factual = torch.tensor([[1.0, 0.0]], requires_grad=True)
    told = reward(factual, torch.tensor([[0.5, 1.0]]), 2.0, 0.5)
    assert told.tolist() == [[2.25, 0.5]]
    assert not told.requires_grad


def test_the_baseline_is_that_of_the_other_samples():
    valid = torch.tensor([[True, True, True, False], [True, False, False, False]])
    told = mean_of_others(torch.tensor([[1.0, 2.0, 6.0, 99.0], [5.0, 99.0, 99.0, 99.0]]), valid)
    assert told.tolist() == [[4.0, 3.5, 1.5, 0.0], [0.0, 0.0, 0.0, 0.0]]


def test_value_and_gradient_by_hand():
    logp = torch.tensor([[-1.0, -2.0, -0.5]], requires_grad=True)
    loss = reinforce(logp, torch.tensor([[1.0, 0.0, 0.0]]), ALL)
    assert loss.item() == pytest.approx(-(1.0 * -1.0 - 0.5 * -2.0 - 0.5 * -0.5) / 3)
    loss.backward()
    assert logp.grad[0].tolist() == pytest.approx([-1 / 3, 0.5 / 3, 0.5 / 3])  # the better one becomes likelier


def test_rewards_as_expected_teach_nothing_and_nothing_valid_is_zero():
    logp = torch.tensor([[-1.0, -2.0, -0.5]], requires_grad=True)
    assert reinforce(logp, torch.full((1, 3), 0.5), ALL).item() == 0.0
    loss = reinforce(logp, torch.ones(1, 3), ~ALL)
    loss.backward()
    assert loss.item() == 0.0
    assert not logp.grad.any()


def test_padding_and_order_do_not_matter():
    logp, told = torch.randn(2, 4), torch.rand(2, 4)
    valid = torch.tensor([[True, True, True, False], [True, True, False, False]])
    whole = reinforce(logp, told, valid)
    order = torch.tensor([2, 0, 3, 1])
    assert reinforce(logp[:, order], told[:, order], valid[:, order]).item() == pytest.approx(float(whole), rel=1e-5)
    broken = logp.masked_fill(~valid, -torch.inf), told.masked_fill(~valid, torch.nan)
    spoilt = broken[0].clone().requires_grad_()
    loss = reinforce(spoilt, broken[1], valid)
    loss.backward()
    assert loss.item() == pytest.approx(float(whole), rel=1e-5)
    assert torch.isfinite(spoilt.grad).all()


@pytest.mark.parametrize("baseline", [None, 0.0, 5.0])
def test_its_mean_over_all_samples_is_the_gradient_of_the_expected_reward(baseline):
    """Every pair of draws of a softmax policy, weighed by its probability; in float64 against p_j (R_j - E R)."""
    rewards = torch.tensor([0.9, 0.2, 0.5], dtype=torch.float64)
    logits = torch.tensor([0.3, -0.4, 1.1], dtype=torch.float64, requires_grad=True)
    p = torch.softmax(logits.detach(), 0)
    total = torch.zeros(3, dtype=torch.float64)
    for first in range(3):
        for second in range(3):
            drawn = torch.tensor([[first, second]])
            base = None if baseline is None else torch.full((1, 2), baseline)
            loss = reinforce(torch.log_softmax(logits, 0)[drawn], rewards[drawn], ALL[:, :2], base)
            (gradient,) = torch.autograd.grad(loss, logits)
            total += p[first] * p[second] * gradient
    assert total.tolist() == pytest.approx((-p * (rewards - (p * rewards).sum())).tolist(), abs=1e-6)


def test_a_bandit_learns_the_best_arm():
    """Rewards are noisy; two terms that disagree are weighed as told."""
    generator = torch.Generator().manual_seed(0)
    factual, coherence = torch.tensor([0.9, 0.3, 0.1]), torch.tensor([0.0, 0.2, 1.0])

    def learnt(l1, l2):
        logits = torch.zeros(3, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=0.05)
        for _ in range(150):
            drawn = torch.multinomial(torch.softmax(logits.detach(), 0), 8, True, generator=generator).reshape(2, 4)
            right = (torch.rand(2, 4, generator=generator) < factual[drawn]).float()
            told = reward(right, coherence[drawn], l1, l2)
            optimizer.zero_grad()
            reinforce(torch.log_softmax(logits, 0)[drawn], told, torch.ones(2, 4, dtype=torch.bool)).backward()
            optimizer.step()
        return torch.softmax(logits.detach(), 0)

    assert float(learnt(1.0, 0.0) @ factual) > 0.85  # from 0.43
    assert int(learnt(0.1, 1.0).argmax()) == 2
