"""Contrastive losses: closed forms, and the blockwise form against the plain ones in float64."""

import math

import pytest
import torch
from torch.nn import functional

from medrag_lightning.losses import clip_softmax, contrastive_loss, duplicates, siglip

SCALE, BIAS = torch.tensor(math.log(8.0)), torch.tensor(-3.0)


def vectors(count=12, dim=5, seed=0, dtype=torch.float32):
    made = torch.randn(2, count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(made, dim=-1).to(dtype)


def keys(count=12, copies=True):
    made = torch.arange(count)[:, None].repeat(1, 2)
    if copies:
        made[3, 1] = made[7, 1] = made[1, 1]  # one report, three images
        made[4, 0] = made[5, 0]  # one image, two reports
    return made


def plain(kind, image, text, key, log_scale, bias):
    positive = duplicates(key, key)
    return clip_softmax(image, text, log_scale, positive) if kind == "clip" else siglip(image, text, log_scale, bias, positive)


def test_clip_closed_forms():
    same = torch.eye(1, 4).repeat(6, 1)
    assert clip_softmax(same, same, SCALE, torch.eye(6).bool()).item() == pytest.approx(math.log(6))
    apart = torch.eye(6)
    assert clip_softmax(apart, apart, torch.tensor(5.0), torch.eye(6).bool()).item() == pytest.approx(0, abs=1e-6)
    expected = math.log(1 + 5 * math.exp(-8))  # every other pair at cosine 0
    assert clip_softmax(apart, apart, SCALE, torch.eye(6).bool()).item() == pytest.approx(expected, rel=1e-4)


def test_clip_with_duplicates_is_perfect_at_the_entropy_of_its_targets():
    twice = torch.eye(3).repeat_interleave(2, dim=0)
    positive = duplicates(torch.arange(3).repeat_interleave(2)[:, None].repeat(1, 2), torch.arange(3)[:, None].repeat(1, 2))
    positive = positive.repeat_interleave(2, dim=1)
    assert clip_softmax(twice, twice, torch.tensor(5.0), positive).item() == pytest.approx(math.log(2), abs=1e-5)
    assert clip_softmax(twice, twice, torch.tensor(5.0), torch.eye(6).bool()).item() == pytest.approx(math.log(2), abs=1e-5)
    one_sided = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    assert clip_softmax(*one_sided, SCALE, torch.ones(1, 1).bool()).item() == 0


def test_siglip_closed_forms():
    apart = torch.eye(4)
    expected = math.log1p(math.exp(-(8 - 3))) + 3 * math.log1p(math.exp(-3))
    assert siglip(apart, apart, SCALE, BIAS, torch.eye(4).bool()).item() == pytest.approx(expected, rel=1e-5)
    far = siglip(apart, apart, torch.tensor(5.0), torch.tensor(-70.0), torch.eye(4).bool())
    assert far.item() == pytest.approx(0, abs=1e-6)
    doubled = torch.eye(2).repeat_interleave(2, dim=0)
    positive = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).bool()
    assert siglip(doubled, doubled, torch.tensor(5.0), torch.tensor(-70.0), positive).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_order_of_pairs_does_not_matter(kind):
    image, text = vectors()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    before = plain(kind, image, text, keys(), SCALE, BIAS)
    torch.testing.assert_close(plain(kind, image[order], text[order], keys()[order], SCALE, BIAS), before)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_descent_pulls_pairs_together_and_others_apart(kind):
    image, text = (part.clone().requires_grad_() for part in vectors())
    plain(kind, image, text, keys(copies=False), SCALE, BIAS).backward()
    image_after, text_after = (functional.normalize(v.detach() - 0.5 * v.grad, dim=-1) for v in (image, text))
    moved = image_after @ text_after.T - image.detach() @ text.detach().T
    assert moved.diagonal().mean() > 0
    assert moved[~torch.eye(12).bool()].mean() < moved.diagonal().mean()


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("rows", [None, 1, 5, 12, 99])
def test_blocks_give_the_value_and_gradient_of_the_definition(kind, rows):
    found = {}
    for name, dtype in (("plain", torch.float64), ("blocks", torch.float32)):
        image, text = (part.clone().requires_grad_() for part in vectors(dtype=dtype))
        log_scale, bias = (value.clone().requires_grad_() for value in (SCALE, BIAS))
        if name == "plain":
            loss = plain(kind, image, text, keys(), log_scale, bias)
        else:
            given = bias if kind == "siglip" else None
            loss = contrastive_loss(kind, image, text, keys(), log_scale, given, rows)
        (3 * loss).backward()
        grads = [image.grad, text.grad, log_scale.grad, bias.grad if kind == "siglip" else torch.zeros(())]
        found[name] = [loss.detach(), *grads]
    for mine, definition in zip(found["blocks"], found["plain"], strict=True):
        torch.testing.assert_close(mine.double(), definition.double(), atol=1e-6, rtol=1e-5)


def test_autocast_does_not_reach_the_loss():
    image, text = vectors()
    expected = contrastive_loss("clip", image, text, keys(), SCALE)
    with torch.autocast("cpu", torch.bfloat16):
        assert contrastive_loss("clip", image, text, keys(), SCALE).item() == expected.item()


def test_a_bias_belongs_to_siglip():
    image, text = vectors()
    with pytest.raises(ValueError, match="needs a bias"):
        contrastive_loss("siglip", image, text, keys(), SCALE)
    with pytest.raises(ValueError, match="has no bias"):
        contrastive_loss("clip", image, text, keys(), SCALE, BIAS)
