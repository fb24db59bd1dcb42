"""Leaves out what no score depends on: the last decoder layer's feed-forward block, except where an answer is predicted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn.functional import pad

from medrag_lightning.models.families import Family

_BLOCKS: WeakKeyDictionary[nn.Module, nn.Module | None] = WeakKeyDictionary()  # the walk takes milliseconds in a large reader


@contextmanager
def last_layer_window(model: nn.Module, family: Family, count: int) -> Iterator[None]:
    """Within it, the last layer's feed-forward block computes the last `count` positions alone and gives 0 elsewhere.

    Exact for the logits of those positions: behind the last layer's attention, positions no longer see each other. It saves
    about two thirds of that one layer, so a share of 1 / layers: much for a small model, little for a large one. With
    gradient checkpointing the block is computed again outside of this context, so there it does nothing.
    """
    block = None if _recomputes(model) else _last_feed_forward(model, family)
    if block is None:
        yield
        return
    left_out = 0

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal left_out
        hidden: Tensor = inputs[0]
        left_out = hidden.shape[1] - count
        return (hidden[:, left_out:], *inputs[1:])

    def after(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return pad(output, (0, 0, left_out, 0))

    hooks = [block.register_forward_pre_hook(before), block.register_forward_hook(after)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _recomputes(model: nn.Module) -> bool:
    """Whether gradient checkpointing is on, by the name that transformers gives it (older ones have the second alone)."""
    name = "is_activation_checkpointing" if hasattr(type(model), "is_activation_checkpointing") else "is_gradient_checkpointing"
    return bool(getattr(model, name, False))


def _last_feed_forward(model: nn.Module, family: Family) -> nn.Module | None:
    """The module ``...<language tower>...layers.<last>.mlp``, found once a model; None where a family names it otherwise."""
    if model in _BLOCKS:
        return _BLOCKS[model]
    found = [
        module
        for name, module in model.named_modules()
        if (parts := name.split("."))[-1] == "mlp" and family.language in parts and parts[-3:-2] == ["layers"]
    ]
    _BLOCKS[model] = found[-1] if found else None
    return _BLOCKS[model]
