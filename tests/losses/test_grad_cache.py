"""A tower in chunks has the gradient of the tower at once."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from medrag_lightning.losses import contrastive_loss, in_chunks


class Tower(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(7, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 5))
        self.shift = nn.Parameter(torch.zeros(5))  # gets the same gradient tensor as the last layer's bias
        self.unused = nn.Parameter(torch.zeros(3))

    def forward(self, inputs):
        return functional.normalize(self.layers(inputs["x"]) + self.shift, dim=-1)


def pair(dropout=0.0):
    torch.manual_seed(0)
    return nn.ModuleList([Tower(dropout), Tower(dropout)]), {"x": torch.randn(11, 7)}, {"x": torch.randn(11, 7)}


def loss_of(image, text):
    return contrastive_loss("clip", image, text, torch.arange(11)[:, None].repeat(1, 2), torch.tensor(2.0))


def gradients(towers, run):
    towers.zero_grad()
    torch.manual_seed(1)
    loss = run()
    loss.backward()
    return [loss.detach()] + [torch.zeros(3) if p.grad is None else p.grad.clone() for p in towers.parameters()]


def assert_same(found, expected):
    largest = max(1.0, *(float(value.abs().max()) for value in expected))
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6 * largest, rtol=0)


@pytest.mark.parametrize("size", [1, 3, 11, 50])
def test_gradient_is_that_of_the_plain_step(size):
    towers, left, right = pair()
    parameters = list(towers.parameters())
    expected = gradients(towers, lambda: loss_of(towers[0](left), towers[1](right)))
    found = gradients(
        towers, lambda: loss_of(in_chunks(towers[0], left, size, parameters), in_chunks(towers[1], right, size, parameters))
    )
    assert_same(found, expected)


def test_dropout_is_repeated_in_the_second_pass():
    towers, left, right = pair(dropout=0.5)
    parameters = list(towers.parameters())

    def plain():
        sides = ((towers[0], left["x"]), (towers[1], right["x"]))
        return loss_of(*(torch.cat([tower({"x": part}) for part in x.split(4)]) for tower, x in sides))

    expected = gradients(towers, plain)
    found = gradients(
        towers, lambda: loss_of(in_chunks(towers[0], left, 4, parameters), in_chunks(towers[1], right, 4, parameters))
    )
    assert_same(found, expected)
    after = torch.rand(1)
    gradients(towers, plain)
    assert torch.equal(after, torch.rand(1))  # the second pass leaves the stream where the first did


def test_autocast_of_the_forward_pass_is_that_of_the_second():
    towers, left, _ = pair()
    other = copy.deepcopy(towers[0])
    weight = torch.randn(11, 5)
    with torch.autocast("cpu", torch.bfloat16):
        once, chunked = other(left), in_chunks(towers[0], left, 11, list(towers[0].parameters()))
    (once * weight).sum().backward()
    (chunked * weight).sum().backward()
    torch.testing.assert_close(towers[0].layers[0].weight.grad, other.layers[0].weight.grad)


def test_one_chunk_is_alive_at_a_time():
    towers, left, _ = pair()
    alive, most = [], []

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            alive.append(None)
            most.append(len(alive))
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            alive.pop()
            return grad

    def run(inputs):
        made = towers[0](inputs)
        return Counted.apply(made) if torch.is_grad_enabled() else made

    in_chunks(run, left, 2, list(towers[0].parameters())).sum().backward()
    assert len(most) == 6
    assert max(most) == 1
