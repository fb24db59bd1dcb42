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
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    settings, factor, cache = reader.adapter, reader.steering_factor_L, reader.vision_cache
    modules = list(reader.modules())
    training = [module for module in modules if module.training]
    # peft's own `disable_adapter` walks the model a dozen times, and turns gradients on again where nothing is trained.
    layers: list[Any] = [module for module in modules if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    adapted = [layer for layer in layers if not layer._disable_adapters]
    kept = None if factor is None else factor.data
    try:
        if settings.vision or settings.projector:
            reader.vision_cache = VisionCache(cache.max_bytes)
        if factor is not None:
            factor.data = torch.ones_like(factor)
        _switch(training, adapted, on=False)
        with torch.no_grad():
            yield
    finally:
        reader.vision_cache = cache
        if factor is not None:
            factor.data = kept
        _switch(training, adapted, on=True)


def _switch(training: list[nn.Module], adapted: list[Any], on: bool) -> None:
    for module in training:
        module.training = on
    for layer in adapted:
        layer._disable_adapters = not on
