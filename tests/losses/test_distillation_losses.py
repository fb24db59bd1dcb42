"""Distillation losses: closed forms in float64 numpy, analytic gradients, padding, and what each score can reach."""

import numpy as np
import pytest
import torch

from medrag_lightning.losses import (
    candidates_disagree,
    gold_score,
    leave_one_out,
    marginal_nll,
    retriever_kl,
    retriever_logp,
    teacher_logq,
)

B, K, C = 2, 50, 6


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def world(b=B, k=K, c=C, seed=0):
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 3, (b, k, c))
    score = rng.uniform(-0.2, 1, (b, k))
    gold = rng.integers(c, size=b)
    return logit, score, gold


def tensors(logit, gold, counts=None):
    b, _, c = logit.shape
    gold_BC = torch.zeros(b, c, dtype=torch.bool)
    gold_BC[torch.arange(b), torch.as_tensor(gold)] = True
    counts = np.ones((b, c), int) if counts is None else counts
    return torch.tensor(logit, dtype=torch.float32), torch.tensor(counts), gold_BC, torch.ones(b, c, dtype=torch.bool)


def full(b=B, k=K):
    return torch.ones(b, k, dtype=torch.bool)


def test_the_released_code_step_by_step():
    """J01: g, q, loss and gradient of the double softmax with the current prior, K=50, B=2, 6 classes, scale 1000."""
    logit, score, gold = world()
    posterior = softmax(logit)
    g = np.log(softmax(posterior))[np.arange(B), :, gold]
    p = softmax(score)
    q = p * np.exp(g) / (p * np.exp(g)).sum(1, keepdims=True)
    loss = 1000 * (q * (np.log(q) - np.log(p))).sum() / (B * K)

    gold_BK = gold_score("class_posterior_double_softmax", *tensors(logit, gold))
    live = torch.tensor(score, dtype=torch.float32, requires_grad=True)
    logp = retriever_logp(live, full(), 1.0)
    logq = teacher_logq(gold_BK, logp, full(), 1.0)
    mine = 1000 * retriever_kl(logp, logq, full(), "mean_over_BK")
    mine.backward()
    assert np.allclose(gold_BK, g, atol=1e-6)
    assert np.allclose(logq.exp(), q, atol=1e-7)
    assert mine.item() == pytest.approx(loss, rel=1e-4)
    assert np.allclose(live.grad, 1000 * (p - q) / (B * K), atol=1e-6)  # J03
    reward = p * (1 - np.exp(g) / (p * np.exp(g)).sum(1, keepdims=True))
    assert np.allclose(live.grad, 1000 * reward / (B * K), atol=1e-6)


def test_the_double_softmax_spans_one_nat_and_the_single_one_does_not():
    """J02."""
    logit = np.array([[[30.0, 0, 0, 0, 0, 0], [0.0, 30, 0, 0, 0, 0]]])
    double, single = (
        gold_score(kind, *tensors(logit, [0])) for kind in ("class_posterior_double_softmax", "class_posterior")
    )
    assert float(double.max() - double.min()) == pytest.approx(1.0, abs=1e-6)
    assert float(single.max() - single.min()) > 16


@pytest.mark.parametrize("t_gold", [1.0, 0.5])
@pytest.mark.parametrize("t_score", [1.0, 0.05])
@pytest.mark.parametrize("prior", [True, False])
@pytest.mark.parametrize("reduction", ["batchmean", "mean_over_BK"])
def test_temperatures_prior_and_reductions_in_closed_form(t_gold, t_score, prior, reduction):
    logit, score, gold = world(seed=1)
    g = np.log(softmax(logit))[np.arange(B), :, gold]
    p = softmax(score / t_score)
    q = softmax((np.log(softmax(g)) + (np.log(p) if prior else 0)) / t_gold)
    divisor = B if reduction == "batchmean" else B * K
    live = torch.tensor(score, dtype=torch.float32, requires_grad=True)
    logp = retriever_logp(live, full(), t_score)
    logq = teacher_logq(gold_score("class_posterior", *tensors(logit, gold)), logp if prior else None, full(), t_gold)
    loss = retriever_kl(logp, logq, full(), reduction)
    loss.backward()
    assert loss.item() == pytest.approx((q * (np.log(q) - np.log(p))).sum() / divisor, rel=1e-4, abs=1e-6)
    assert np.allclose(live.grad, (p - q) / (t_score * divisor), atol=1e-5 / t_score)


def test_a_constant_gold_score_teaches_nothing():
    """J03."""
    _, score, _ = world()
    live = torch.tensor(score, dtype=torch.float32, requires_grad=True)
    logp = retriever_logp(live, full(), 1.0)
    loss = retriever_kl(logp, teacher_logq(torch.full((B, K), -0.7), logp, full(), 1.0), full())
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert float(live.grad.abs().max()) < 1e-7


def test_the_score_of_a_better_candidate_rises():
    live = torch.zeros(1, 3, requires_grad=True)
    logp = retriever_logp(live, full(1, 3), 1.0)
    retriever_kl(logp, teacher_logq(torch.tensor([[-0.1, -3.0, -3.0]]), logp, full(1, 3), 1.0), full(1, 3)).backward()
    assert live.grad[0, 0] < 0 < live.grad[0, 1]


def test_perplexity_distillation_is_a_mean_over_tokens_and_knows_no_other_answer():
    logit, _, gold = world()
    counts = np.arange(1, C + 1)[None].repeat(B, 0)
    g = gold_score("pdist", *tensors(logit, gold, counts))
    assert np.allclose(g, (logit / counts[:, None])[np.arange(B), :, gold], atol=1e-6)
    changed = logit.copy()
    changed[np.arange(B), :, (gold + 1) % C] += 5
    assert torch.equal(g, gold_score("pdist", *tensors(changed, gold, counts)))
    longer = gold_score("class_posterior", *tensors(logit, gold, counts), length_normalised=True)
    assert np.allclose(longer, np.log(softmax(logit / counts[:, None]))[np.arange(B), :, gold], atol=1e-5)


def test_the_marginal_likelihood_has_the_posteriors_gradient():
    logit, score, gold = world(seed=2)
    g = gold_score("emdr2", *tensors(logit, gold))
    grads = []
    for loss_of in (
        lambda logp: marginal_nll(logp, g, full()),
        lambda logp: retriever_kl(logp, teacher_logq(g, logp, full(), 1.0), full()),
    ):
        live = torch.tensor(score, dtype=torch.float32, requires_grad=True)
        loss = loss_of(retriever_logp(live, full(), 0.1))
        loss.backward()
        grads.append(live.grad)
    assert torch.allclose(*grads, atol=1e-6)
    p = softmax(score / 0.1)
    expected = -np.log((p * softmax(logit)[np.arange(B), :, gold]).sum(1)).mean()
    assert marginal_nll(retriever_logp(torch.tensor(score), full(), 0.1), g, full()).item() == pytest.approx(expected, rel=1e-5)
    certain = marginal_nll(torch.tensor([[0.0, -torch.inf]]), torch.tensor([[0.0, -9.0]]), full(1, 2))
    assert certain.item() == 0.0


def test_leave_one_out_is_the_loss_of_the_others():
    gold_BK = torch.log(torch.tensor([[0.9, 0.2, 0.1], [0.5, 0.5, 0.25]]))
    weight = torch.tensor([[0.5, 0.3, 0.2], [0.4, 0.6, 0.0]])
    valid = torch.tensor([[True, True, True], [True, True, False]])
    g = leave_one_out(gold_BK, weight.log(), valid)
    expected = [
        -np.log((0.3 * 0.2 + 0.2 * 0.1) / 0.5),
        -np.log((0.5 * 0.9 + 0.2 * 0.1) / 0.7),
        -np.log((0.5 * 0.9 + 0.3 * 0.2) / 0.8),
    ]
    assert np.allclose(g[0], expected, atol=1e-6)
    assert np.allclose(g[1, :2], -np.log([0.5, 0.5]), atol=1e-6)
    assert torch.equal(leave_one_out(gold_BK[:, :1], weight.log()[:, :1], valid[:, :1]), torch.zeros(2, 1))


def test_several_gold_answers_give_their_mean():
    logit, _, _ = world(b=1)
    logp, counts, gold_BC, valid_BC = tensors(logit, [0])
    gold_BC[0, 3] = True
    g = gold_score("class_posterior", logp, counts, gold_BC, valid_BC)
    assert np.allclose(g, np.log(softmax(logit))[:, :, [0, 3]].mean(-1), atol=1e-6)


@pytest.mark.parametrize("kind", ["class_posterior", "class_posterior_double_softmax", "pdist", "loop", "emdr2"])
@pytest.mark.parametrize("reduction", ["batchmean", "mean_over_BK"])
def test_padding_and_order_change_nothing(kind, reduction):
    """Padded candidates and answers hold nonsense; a row without any candidate counts for nothing."""
    logit, score, gold = world(k=7, c=3)

    def run(logit, score, gold, valid_BK, valid_BC):
        logp_BKC, counts, gold_BC, _ = tensors(logit, gold)
        live = torch.tensor(score, dtype=torch.float32, requires_grad=True)
        logp = retriever_logp(live, valid_BK, 0.1)
        g = gold_score(kind, logp_BKC, counts, gold_BC, valid_BC)
        if kind == "emdr2":
            loss = marginal_nll(logp, g, valid_BK, reduction)
        else:
            g = leave_one_out(g, logp, valid_BK) if kind == "loop" else g
            loss = retriever_kl(logp, teacher_logq(g, logp, valid_BK, 0.5), valid_BK, reduction)
        loss.backward()
        return loss.item(), live.grad

    plain, grad = run(logit, score, gold, full(B, 7), torch.ones(B, 3, dtype=torch.bool))
    shuffled, _ = run(logit[:, ::-1].copy(), score[:, ::-1].copy(), gold, full(B, 7), torch.ones(B, 3, dtype=torch.bool))
    wide_logit = np.full((B + 1, 10, 5), 77.0)
    wide_logit[:B, :7, :3] = logit
    wide_score = np.full((B + 1, 10), 55.0)
    wide_score[:B, :7] = score
    valid_BK, valid_BC = torch.zeros(B + 1, 10, dtype=torch.bool), torch.zeros(B + 1, 5, dtype=torch.bool)
    valid_BK[:B, :7], valid_BC[:, :3] = True, True
    padded, wide_grad = run(wide_logit, wide_score, [*gold, 0], valid_BK, valid_BC)
    assert shuffled == pytest.approx(plain, rel=1e-4, abs=1e-6)
    assert padded == pytest.approx(plain, rel=1e-4, abs=1e-6)
    assert torch.allclose(wide_grad[:B, :7], grad, atol=1e-6)
    assert torch.isfinite(wide_grad).all()
    assert float(wide_grad[B].abs().sum() + wide_grad[:, 7:].abs().sum()) == 0


@pytest.mark.parametrize("k", [1, 3, 7, 50])
def test_any_number_of_candidates(k):
    """J06: batch 1, K that no chunk divides."""
    logit, score, gold = world(b=1, k=k)
    live = torch.tensor(score, dtype=torch.float32, requires_grad=True)
    logp = retriever_logp(live, full(1, k), 1.0)
    g = gold_score("class_posterior", *tensors(logit, gold))
    loss = retriever_kl(logp, teacher_logq(g, logp, full(1, k), 1.0), full(1, k))
    loss.backward()
    assert torch.isfinite(live.grad).all()
    assert loss.item() >= -1e-6


def test_queries_whose_candidates_agree_can_be_left_out():
    score = torch.tensor([[[2.0, 1, 0], [3, 1, 0], [0, 9, 0]], [[2.0, 1, 0], [0, 3, 0], [0, 0, 9]]])
    valid_BK = torch.tensor([[True, True, False], [True, True, True]])
    told = candidates_disagree(score, valid_BK, torch.ones(2, 3, dtype=torch.bool))
    assert told.tolist() == [False, True]
    logp = retriever_logp(torch.zeros(2, 3), valid_BK, 1.0)
    logq = teacher_logq(torch.tensor([[-0.1, -3, 0], [-0.1, -3, -3]]), None, valid_BK, 1.0)
    alone = retriever_kl(logp[1:], logq[1:], valid_BK[1:])
    assert retriever_kl(logp, logq, valid_BK, weight_B=told.float()) == pytest.approx(alone.item())
    assert retriever_kl(logp, logq, valid_BK, weight_B=torch.zeros(2)).item() == 0.0
