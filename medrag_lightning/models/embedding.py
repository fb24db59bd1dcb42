"""What all trainable dual encoders share: frozen embedding in batches, a hash of weights, a checkpoint's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medrag_lightning.artifacts import fingerprint

Inputs = Mapping[str, Tensor]
Item = TypeVar("Item")


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside; afterwards every submodule is in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in modes:
            part.training = False
        with torch.inference_mode():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def embed(
    module: nn.Module,
    items: Sequence[Item],
    batch_size: int,
    inputs: Callable[[Sequence[Item]], dict[str, Tensor]],
    vectors: Callable[[Inputs], Tensor],
    dim: int,
) -> NDArray[np.float32]:
    """(B, D) vectors of `items`, `batch_size` at a time, in evaluation mode; (0, D) for none."""
    made = [np.zeros((0, dim), np.float32)]
    with evaluating(module):
        for start in range(0, len(items), batch_size):
            made.append(vectors(inputs(items[start : start + batch_size])).cpu().numpy())
    return np.concatenate(made)


def weights_sha256(module: nn.Module) -> str:
    """sha256 over names, types and values of all weights; one hash a tensor, so large models are never copied whole."""
    tensors = sorted(module.state_dict().items())
    return fingerprint([(key, str(value.dtype), fingerprint(_bytes(value))) for key, value in tensors])


def plain(value: Any) -> Any:
    """Settings as JSON-able values; enumerations and size objects by their text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def refuse_contradictions(mine: Mapping[str, Any], saved: Mapping[str, Any], what: str = "reader") -> None:
    """Raises ValueError that lists every setting of a checkpoint that differs from this model's own."""
    if what == "reader" and "trained" == saved.get("kind") != mine.get("kind"):
        raise ValueError(
            "the checkpoint's reader was tuned from the reader of an earlier stage, which it needs: put a TrainedBackbone "
            "around this backbone, with the checkpoint that it was tuned from"
        )
    wrong = [
        f"{name}: checkpoint {_shown(saved.get(name))}, here {_shown(mine.get(name))}"
        for name in sorted({*mine, *saved})
        if mine.get(name) != saved.get(name)
    ]
    if wrong:
        raise ValueError(
            f"the checkpoint's {what} is not the configured one ({'; '.join(wrong)}); configure the {what} it was trained with"
        )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:40]}... ({len(text)} characters)"
