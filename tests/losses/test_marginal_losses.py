"""The marginal likelihood of an answer: closed form in float64, both gradients, perfect value, padding, order."""

import numpy as np
import pytest
import torch

from medrag_lightning.losses import answer_logp, joint_nll, marginal_nll, mixture_logp

B, K, C, T = 3, 5, 4, 0.3


def world(seed=0):
    rng = np.random.default_rng(seed)
    score, logp = rng.normal(0, 1, (B, K)), rng.normal(-2, 1, (B, K, C))
    gold = np.zeros((B, C), bool)
    gold[np.arange(B), rng.integers(C, size=B)] = True
    return score, logp, gold


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def loss_of(score, logp, gold, valid=None, classes=None, kind="closed"):
    """The loss of each query and its leaves, float32 inside."""
    score, logp = (torch.tensor(x, requires_grad=True) for x in (score, logp))
    gold = torch.tensor(gold)
    valid = torch.ones(score.shape, dtype=torch.bool) if valid is None else torch.tensor(valid)
    classes = torch.ones(gold.shape, dtype=torch.bool) if classes is None else torch.tensor(classes)
    told, real = mixture_logp([score], [valid], T)
    return joint_nll(told, answer_logp(kind, logp, gold, classes), real), score, logp


@pytest.mark.parametrize("kind", ["closed", "sequence"])
def test_value_is_the_closed_form_in_float64(kind):
    score, logp, gold = world()
    each = softmax(logp) if kind == "closed" else np.exp(logp)
    reference = -np.log((softmax(score / T) * each[gold[:, None, :].repeat(K, 1)].reshape(B, K)).sum(1))
    found, *_ = loss_of(score, logp, gold, kind=kind)
    np.testing.assert_allclose(found.detach().numpy(), reference, rtol=1e-6)


def test_both_gradients_are_those_of_the_docstring():
    score, logp, gold = world()
    prior = softmax(score / T)
    answer = torch.log_softmax(torch.tensor(logp), -1)[torch.tensor(gold)[:, None].expand(-1, K, -1)].reshape(B, K)
    posterior = softmax(np.log(prior) + answer.numpy())
    live = answer.clone().requires_grad_()
    scores = torch.tensor(score, requires_grad=True)
    told, valid = mixture_logp([scores], [torch.ones(B, K, dtype=torch.bool)], T)
    joint_nll(told, live, valid).sum().backward()
    np.testing.assert_allclose(live.grad, -posterior, atol=1e-6)
    np.testing.assert_allclose(scores.grad, (prior - posterior) / T, atol=1e-6)


def test_the_better_candidate_rises_and_the_reader_learns_most_from_it():
    logp = np.array([[[3.0, 0.0], [0.0, 0.5], [0.0, 3.0]]])
    found, score, reader = loss_of(np.zeros((1, 3)), logp, np.array([[True, False]]))
    found.sum().backward()
    down = -score.grad[0]
    assert down[0] > 0 > down[1] > down[2]
    assert (-reader.grad[0, :, 0] > 0).all()
    assert (-reader.grad[0, :, 1] < 0).all()


def test_it_is_zero_where_the_answer_is_certain_and_zero_without_candidates():
    logp = np.array([[[0.0, -200.0], [-200.0, 0.0]]])
    found, *_ = loss_of(np.array([[50.0, 0.0]]), logp, np.array([[True, False]]))
    assert found.item() == pytest.approx(0.0, abs=1e-6)
    empty, score, reader = loss_of(np.zeros((1, 2)), logp, np.array([[True, False]]), np.zeros((1, 2), bool))
    assert empty.item() == 0
    empty.sum().backward()
    assert float(score.grad.abs().sum() + reader.grad.abs().sum()) == 0


@pytest.mark.parametrize("kind", ["closed", "sequence"])
def test_padding_and_order_change_nothing(kind):
    score, logp, gold = world()
    found, *leaves = loss_of(score, logp, gold, kind=kind)
    found.sum().backward()
    order, answers = np.array([3, 1, 4, 0, 2]), np.array([2, 0, 3, 1])
    wide_score, wide_logp = np.full((B, K + 2), 90.0), np.full((B, K + 2, C + 1), 70.0)
    wide_score[:, :K], wide_logp[:, :K, :C] = score[:, order], logp[:, order][..., answers]
    valid, classes, wide_gold = np.zeros((B, K + 2), bool), np.zeros((B, C + 1), bool), np.zeros((B, C + 1), bool)
    valid[:, :K], classes[:, :C], wide_gold[:, :C] = True, True, gold[:, answers]
    same, *others = loss_of(wide_score, wide_logp, wide_gold, valid, classes, kind)
    same.sum().backward()
    torch.testing.assert_close(same, found, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(others[0].grad[:, :K], leaves[0].grad[:, order], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(others[1].grad[:, :K, :C], leaves[1].grad[:, order][..., answers], atol=1e-6, rtol=1e-5)
    assert (
        float(others[0].grad[:, K:].abs().sum() + others[1].grad[:, K:].abs().sum() + others[1].grad[..., C:].abs().sum()) == 0
    )


def test_sides_weigh_alike_and_an_empty_one_not_at_all():
    both = torch.tensor([[True, True], [True, True]]), torch.tensor([[True], [False]])
    told, valid = mixture_logp([torch.zeros(2, 2), torch.zeros(2, 1)], list(both), T)
    weights = told.exp() * valid
    torch.testing.assert_close(weights, torch.tensor([[0.25, 0.25, 0.5], [0.5, 0.5, 0.0]]))


def test_with_a_fixed_reader_it_is_emdr2():
    score, logp, gold = world()
    found, live, _ = loss_of(score, logp, gold)
    found.mean().backward()
    told, valid = mixture_logp([(again := torch.tensor(score, requires_grad=True))], [torch.ones(B, K, dtype=torch.bool)], T)
    fixed = answer_logp("closed", torch.tensor(logp), torch.tensor(gold), torch.ones(B, C, dtype=torch.bool))
    marginal_nll(told, fixed, valid).backward()
    torch.testing.assert_close(again.grad, live.grad)
