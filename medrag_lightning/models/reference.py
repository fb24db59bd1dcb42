"""The reader before training: its adapter off, for the reference of preference tuning (DPO, arXiv 2305.18290)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from medrag_lightning.models.vision_cache import VisionCache


@contextmanager
def adapter_off(reader: Any) -> Iterator[None]:
    """Within it, `reader` (an HfReader with an adapter) gives exactly the numbers of its base, without gradients.

    Everything is in evaluation mode; afterwards each module is in the mode it was in, and what was trained is trained. The
    factors of learned steering are 1, as before training. Image features are shared with the tuned reader, unless the
    adapter has changed them: then they are kept for as long as this lasts.
    """
    settings, factor, cache = reader.adapter, reader.steering_factor_L, reader.vision_cache
    modes = [(module, module.training) for module in reader.modules()]
    # peft turns gradients off with the adapter and on again for all of it, also where a part is not trained (hf_reader.py).
    trained = [(parameter, parameter.requires_grad) for parameter in reader.parameters()]
    kept = None if factor is None else factor.data
    if settings.vision or settings.projector:
        reader.vision_cache = VisionCache(cache.max_bytes)
    try:
        with torch.no_grad(), reader.model.disable_adapter():
            if factor is not None:
                factor.data = torch.ones_like(factor)
            for module, _ in modes:
                module.training = False
            yield
    finally:
        reader.vision_cache = cache
        if factor is not None:
            factor.data = kept
        _restore(modes, trained)


def _restore(modes: list[tuple[nn.Module, bool]], trained: list[tuple[nn.Parameter, bool]]) -> None:
    for module, mode in modes:
        module.training = mode
    for parameter, wanted in trained:
        parameter.requires_grad_(wanted)
