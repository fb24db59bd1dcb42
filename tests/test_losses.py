import math

import torch

from medrag_lightning.losses import answer_nll


def test_closed_form_mean_over_tokens():
    logp_RL = torch.log(torch.tensor([[0.5, 0.25], [0.125, 1.0]]))
    mask_RL = torch.tensor([[True, True], [True, False]])
    expected = (math.log(2) + math.log(4) + math.log(8)) / 3
    assert math.isclose(answer_nll(logp_RL, mask_RL).item(), expected, rel_tol=1e-6)


def test_zero_when_certain_and_when_nothing_is_supervised():
    assert answer_nll(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)).item() == 0
    logp_RL = torch.full((2, 3), -5.0, requires_grad=True)
    loss = answer_nll(logp_RL, torch.zeros(2, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert logp_RL.grad is not None
    assert logp_RL.grad.abs().sum() == 0


def test_masked_entries_do_not_matter_even_if_they_are_not_finite():
    mask_RL = torch.tensor([[True, False]])
    good = answer_nll(torch.tensor([[-1.0, 0.0]]), mask_RL)
    bad = answer_nll(torch.tensor([[-1.0, -math.inf]]), mask_RL)
    assert good.item() == bad.item() == 1.0


def test_rows_may_be_permuted_and_padded():
    generator = torch.Generator().manual_seed(0)
    logp_RL = -torch.rand(4, 3, generator=generator)
    mask_RL = torch.rand(4, 3, generator=generator) < 0.7
    order = torch.tensor([2, 0, 3, 1])
    plain = answer_nll(logp_RL, mask_RL)
    torch.testing.assert_close(plain, answer_nll(logp_RL[order], mask_RL[order]))
    padded = torch.nn.functional.pad(logp_RL, (0, 2), value=9.0), torch.nn.functional.pad(mask_RL, (0, 2))
    torch.testing.assert_close(plain, answer_nll(*padded))


def test_gradient_raises_the_likelihood():
    logp_RL = torch.full((1, 2), -1.0, requires_grad=True)
    answer_nll(logp_RL, torch.ones(1, 2, dtype=torch.bool)).backward()
    assert (logp_RL.grad == -0.5).all()


def test_parts_with_a_shared_normaliser_sum_to_the_whole():
    logp_RL, mask_RL = -torch.rand(6, 4), torch.rand(6, 4) < 0.6
    count = float(mask_RL.sum())
    parts = answer_nll(logp_RL[:2], mask_RL[:2], count) + answer_nll(logp_RL[2:], mask_RL[2:], count)
    torch.testing.assert_close(parts, answer_nll(logp_RL, mask_RL))
