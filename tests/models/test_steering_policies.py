"""The formulas of the steering policies by hand, and what they do to attention by segment."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medrag_lightning.batches import SteeringPolicy
from medrag_lightning.models.steering_policies import attention_weights, centred, document_strength, steered_logits

SHOWN = torch.ones(1, 15, dtype=torch.bool)
IMAGE, DOCUMENTS, COUNT = slice(0, 576), slice(576, 1926), 1971  # 576 image tokens, 15 documents of 90, 45 others


def test_strength_is_the_published_formula() -> None:
    score = torch.tensor([[2.0, 4.0, 3.0, 9.0]])
    shown = torch.tensor([[True, True, True, False]])
    assert document_strength(score, shown).tolist() == [[0.0, 1.0, 0.5, 0.0]]
    assert centred(document_strength(score, shown), shown).tolist() == [[-0.5, 0.5, 0.0, 0.0]]
    assert torch.equal(document_strength(3 * score - 7, shown), document_strength(score, shown))


@pytest.mark.parametrize(
    ("score", "shown"),
    [([[0.3, 0.9]], [[True, False]]), ([[0.4, 0.4]], [[True, True]]), ([[0.4, float("nan")]], [[False, False]])],
)
def test_no_strength_and_a_finite_gradient_without_a_difference(score: list[list[float]], shown: list[list[bool]]) -> None:
    score_PK = torch.tensor(score, requires_grad=True)
    strength = document_strength(score_PK, torch.tensor(shown))
    assert strength.tolist() == [[0.0, 0.0]]
    strength.sum().backward()
    assert score_PK.grad is not None
    assert score_PK.grad.tolist() == [[0.0, 0.0]]


def test_the_gradient_of_strength_goes_to_the_scores() -> None:
    score_PK = torch.tensor([[0.0, 1.0, 4.0, float("nan")]], requires_grad=True)
    document_strength(score_PK, torch.tensor([[True, True, True, False]]))[0, 1].backward()
    assert score_PK.grad is not None
    torch.testing.assert_close(score_PK.grad, torch.tensor([[-3 / 16, 1 / 4, -1 / 16, 0.0]]))


def changed(policy: SteeringPolicy, logits: Tensor, weight: Tensor, source: Tensor, gain: float = 1.0) -> Tensor:
    """Weights of one row (H, S) after steering; all columns visible but the last."""
    visible = torch.ones(1, 1, logits.shape[-1], dtype=torch.bool)
    visible[..., -1] = False
    gain_H = torch.full(logits.shape[:1], gain)
    made, seen = steered_logits(policy, logits[None, :, None], visible, weight[None, None], source[None, None], gain_H)
    return attention_weights(made, seen)[0, :, 0]


def test_each_policy_by_hand() -> None:
    logits = torch.tensor([[1.0, -2.0, 0.5, 7.0]])
    weight, source = torch.tensor([0.5, 1.0, 0.0, 1.0]), torch.tensor([True, True, False, True])
    paper = torch.tensor([[1.5, 0.0, 0.5]]).softmax(-1)
    torch.testing.assert_close(changed("paper", logits, weight, source)[:, :3], paper)
    torch.testing.assert_close(changed("pai", logits, weight, source)[:, :3], paper)
    plain = logits[:, :3].softmax(-1)
    kept = changed("mass_preserving", logits, weight, source)
    assert kept[0, 2] == pytest.approx(plain[0, 2].item(), abs=1e-7)
    torch.testing.assert_close(kept[:, :2], plain[:, :2].sum() * torch.tensor([[1.5, 0.0]]).softmax(-1))
    best = torch.tensor([True, False, False, False])
    pasta = torch.tensor([[1.0, -2.0, 0.5]]).exp() * torch.tensor([[1.0, 0.01, 0.01]])
    torch.testing.assert_close(changed("pasta", logits, weight, best, 0.01)[:, :3], pasta / pasta.sum())
    blocked = changed("knockout", logits, weight, source)
    assert blocked.tolist() == [[0.0, 0.0, 1.0, 0.0]]


@pytest.mark.parametrize("policy", ["paper", "mass_preserving", "pai", "pasta", "knockout"])
@pytest.mark.parametrize("hidden", [torch.finfo(torch.float32).min, -torch.inf])
def test_hidden_columns_stay_at_exactly_0(policy: SteeringPolicy, hidden: float) -> None:
    """Were the mask added first, a hidden token would become visible: min + |min| = 0."""
    logits = torch.tensor([[1.0, -2.0, 0.5, 7.0]])
    weights = changed(policy, logits, torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.tensor([True, False, False, True]), 0.1)
    assert weights[0, 3] == 0
    assert weights.isfinite().all()
    wrong = logits.index_fill(1, torch.tensor([3]), hidden)
    wrong = wrong + wrong.abs()
    assert wrong[0, 3] == 0 or wrong[0, 3].isnan()


def test_rows_that_see_nothing_or_no_document_are_finite() -> None:
    logits = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    source = torch.tensor([False, False, True, True]).expand(1, 3, 4)
    visible = torch.tensor([[False] * 4, [True, True, False, False], [True] * 4])[None]
    for policy in ("paper", "mass_preserving", "knockout"):
        made, seen = steered_logits(policy, logits, visible, source.float(), source, torch.ones(2))  # type: ignore[arg-type]
        weights = attention_weights(made, seen)
        torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 3))
        (gradient,) = torch.autograd.grad(weights.square().sum(), logits)
        assert weights.isfinite().all()
        assert gradient.isfinite().all()


def mass(policy: SteeringPolicy | None, deviation: float) -> tuple[float, float]:
    """Share of attention on documents and on the image, over heads and question rows with Gaussian logits."""
    logits = deviation * torch.randn(1, 16, 20, COUNT, generator=torch.Generator().manual_seed(0))
    strength = document_strength(torch.linspace(0, 1, 15)[None], SHOWN)
    strength = centred(strength, SHOWN) if policy == "centred" else strength
    weight, source = torch.zeros(1, 20, COUNT), torch.zeros(1, 20, COUNT, dtype=torch.bool)
    weight[..., DOCUMENTS] = strength.repeat_interleave(90, 1) if policy else 0.0
    source[..., DOCUMENTS] = True
    made, seen = steered_logits(policy or "paper", logits, torch.ones_like(source), weight, source, torch.ones(16))
    weights = attention_weights(made, seen)
    return weights[..., DOCUMENTS].sum(-1).mean().item(), weights[..., IMAGE].sum(-1).mean().item()


@pytest.mark.parametrize(
    ("policy", "deviation", "on_documents", "on_image"),
    [
        (None, 1.0, 0.69, 0.29),
        ("paper", 1.0, 0.83, 0.16),
        ("paper", 2.0, 0.98, 0.02),
        ("centred", 1.0, 0.71, 0.27),
        ("centred", 2.0, 0.81, 0.18),
        ("mass_preserving", 1.0, 0.69, 0.29),
    ],
)
def test_how_far_the_image_is_crowded_out(
    policy: SteeringPolicy | None, deviation: float, on_documents: float, on_image: float
) -> None:
    """The published formula takes attention from the image; its known side effect in numbers."""
    documents, image = mass(policy, deviation)
    assert abs(documents - on_documents) <= 0.01
    assert abs(image - on_image) <= 0.01


def test_mass_preserving_keeps_the_image_to_float_precision() -> None:
    for deviation in (1.0, 2.0):
        plain, kept = mass(None, deviation), mass("mass_preserving", deviation)
        assert kept == pytest.approx(plain, abs=1e-5)
