"""R02: losses that teach the weights of similarities: closed forms, zero cases, invariances, gradients."""

import math

import pytest
import torch

from medrag_lightning.losses import confidence_labels, info_nce, listwise, marginal, mean_counted, posterior_kl

TAU = 0.07
KINDS = ["hard", "listwise", "kl", "marginal"]


def values(kind, score_BK, confidence_BK, valid_BK=None, tau=TAU, negatives=8):
    valid_BK = torch.ones_like(score_BK, dtype=torch.bool) if valid_BK is None else valid_BK
    if kind == "hard":
        known = confidence_BK.masked_fill(~valid_BK, -torch.inf)
        rank_BK = known.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return info_nce(score_BK, *confidence_labels(confidence_BK, rank_BK, valid_BK, negatives), tau)
    if kind == "marginal":
        return marginal(score_BK, confidence_BK, valid_BK, tau)
    function = listwise if kind == "listwise" else posterior_kl
    return function(score_BK, confidence_BK, valid_BK, tau, 0.5)


def test_info_nce_by_hand():
    """-log[e^{s+/tau} / (e^{s+/tau} + sum_j e^{s-_j/tau})] with s+ = .3, s- = .2 and .25."""
    score = torch.tensor([[0.2, 0.3, 0.25]])
    nll, counts = info_nce(score, torch.tensor([[False, True, False]]), torch.tensor([[True, False, True]]), TAU)
    expected = -math.log(math.exp(0.3 / TAU) / (math.exp(0.3 / TAU) + math.exp(0.2 / TAU) + math.exp(0.25 / TAU)))
    assert float(nll) == pytest.approx(expected, rel=1e-6)
    assert counts.tolist() == [True]


def test_a_confident_positive_lowers_info_nce_and_its_gradient_is_the_softmax():
    score = torch.tensor([[0.2, 0.3, 0.25]], requires_grad=True)
    labels = torch.tensor([[False, True, False]]), torch.tensor([[True, False, True]])
    nll, _ = info_nce(score, *labels, TAU)
    nll.sum().backward()
    p = torch.softmax(score.detach() / TAU, 1)
    torch.testing.assert_close(score.grad, (p - labels[0].float()) / TAU)
    higher, _ = info_nce(score.detach() + torch.tensor([[0.0, 0.1, 0.0]]), *labels, TAU)
    assert higher.item() < nll.item()
    assert float(info_nce(torch.tensor([[-9.0, 9.0, -9.0]]), *labels, TAU)[0]) == pytest.approx(0.0, abs=1e-6)
    assert float(info_nce(torch.zeros(1, 3), *labels, TAU)[0]) == pytest.approx(math.log(3))


def test_labels_are_the_best_and_the_last_m_less_those_as_good():
    confidence = torch.log(torch.tensor([[0.9, 0.2, 0.5, 0.1, 0.3], [0.5, 0.5, 0.5, 0.5, 0.4], [0.7, 0.1, 0.6, 0.0, 0.0]]))
    confidence[2, 3:] = torch.nan
    rank = torch.tensor([[0, 3, 1, 4, 2], [0, 1, 2, 3, 4], [0, 2, 1, 3, 4]])
    positive, negative = confidence_labels(confidence, rank, ~confidence.isnan(), 2)
    assert positive.long().argmax(1).tolist() == [0, 0, 0]
    assert negative.tolist() == [
        [False, True, False, True, False],
        [False, False, False, False, True],
        [False, True, True, False, False],
    ]


@pytest.mark.parametrize("kind", ["listwise", "kl"])
def test_distributions_by_hand(kind):
    score, confidence = torch.tensor([[0.1, 0.3, 0.2]]), torch.tensor([[0.2, 0.9, 0.4]]).log()
    p = torch.softmax(score.double() / TAU, 1)
    c = confidence.double().exp()
    q = torch.softmax(c / 0.5, 1) if kind == "listwise" else c**2 / (c**2).sum()
    expected = -(q * p.log()).sum() if kind == "listwise" else (q * (q / p).log()).sum()
    assert float(values(kind, score, confidence)[0]) == pytest.approx(float(expected), rel=1e-5)


def test_marginal_by_hand_and_equally_good_candidates_share():
    score, confidence = torch.tensor([[0.1, 0.3, 0.2]], requires_grad=True), torch.tensor([[0.2, 0.9, 0.9]]).log()
    nll, _ = marginal(score, confidence, torch.ones(1, 3, dtype=torch.bool), TAU)
    p = torch.softmax(score.detach().double() / TAU, 1)
    assert float(nll.detach()) == pytest.approx(-math.log(float((p * confidence.double().exp()).sum())), rel=1e-6)
    nll.sum().backward()
    q = p * confidence.double().exp()
    torch.testing.assert_close(score.grad, ((p - q / q.sum()) / TAU).float())
    sharp = torch.tensor([[-9.0, 9.0, 9.0]])
    assert float(marginal(sharp, confidence, torch.ones(1, 3, dtype=torch.bool), TAU)[0]) == pytest.approx(-math.log(0.9))


def test_perfect_values():
    confidence = torch.tensor([[0.2, 0.9, 0.4]]).log()
    target = torch.softmax(confidence.exp() / 0.5, 1)
    assert float(values("kl", confidence * 2, confidence, tau=1.0)[0]) == pytest.approx(0.0, abs=1e-6)
    entropy = float(-(target * target.log()).sum())
    assert float(values("listwise", confidence.exp() / 0.5, confidence, tau=1.0)[0]) == pytest.approx(entropy, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_order_and_padding_do_not_matter(kind):
    torch.manual_seed(0)
    score, confidence = torch.randn(6, 12), -torch.rand(6, 12)
    value, _ = values(kind, score, confidence)
    order = torch.randperm(12)
    torch.testing.assert_close(values(kind, score[:, order], confidence[:, order])[0], value)
    padded = [torch.nn.functional.pad(part, (0, 3), value=5.0) for part in (score, confidence)]
    valid = torch.nn.functional.pad(torch.ones(6, 12, dtype=torch.bool), (0, 3))
    score_pad = padded[0].requires_grad_()
    found, counts = values(kind, score_pad, padded[1], valid)
    torch.testing.assert_close(found, value)
    mean_counted(found, counts).backward()
    assert (score_pad.grad[:, 12:] == 0).all()
    assert score_pad.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_that_teaches_nothing_does_not_count(kind):
    """One candidate; and for `hard` candidates that are all as good."""
    score = torch.randn(2, 4, requires_grad=True)
    valid = torch.tensor([[True, False, False, False], [True] * 4])
    confidence = torch.full((2, 4), -0.5) if kind == "hard" else -torch.rand(2, 4)
    found, counts = values(kind, score, confidence, valid)
    assert counts.tolist() == [False, kind != "hard"]
    mean_counted(found, counts & torch.tensor([True, False])).backward()
    assert (score.grad == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_raises_the_confident_and_lowers_the_others(kind):
    score = torch.zeros(1, 4, requires_grad=True)
    found, counts = values(kind, score, torch.tensor([[0.9, 0.1, 0.1, 0.1]]).log())
    mean_counted(found, counts).backward()
    assert score.grad[0, 0] < 0
    assert (score.grad[0, 1:] > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_differences(kind):
    torch.manual_seed(1)
    score, confidence = torch.randn(3, 5, dtype=torch.float64), -torch.rand(3, 5)
    score = score.float().requires_grad_()
    tau = torch.tensor(0.7, requires_grad=True)
    mean_counted(*values(kind, score, confidence, tau=tau)).backward()
    base = [score.detach(), tau.detach()]
    for which, part, place in ((0, score, (1, 2)), (1, tau, ())):
        step = torch.zeros_like(part)
        step[place] = 1e-2
        ends = []
        for sign in (1, -1):
            moved = [one + sign * step if at == which else one for at, one in enumerate(base)]
            ends.append(float(mean_counted(*values(kind, moved[0], confidence, tau=moved[1]))))
        assert float(part.grad[place]) == pytest.approx((ends[0] - ends[1]) / 2e-2, abs=2e-3)
