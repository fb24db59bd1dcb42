"""Gradient checkpointing of a reader's layers."""

from __future__ import annotations

from typing import Any

from torch import nn


def enable_checkpointing(model: Any) -> None:
    """Non-reentrant, which needs no gradient at the embeddings: the hook that asks for one is taken away again."""
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})
    model.disable_input_require_grads()


def mark_checkpointed(model: nn.Module) -> None:
    """Checkpointing happens only in layers that are in training mode: marks those layers, not what is inside them."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True
