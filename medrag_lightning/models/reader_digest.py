"""sha256 of a reader's weights: trained ones in full; of a large frozen base, a fixed sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medrag_lightning.artifacts import fingerprint

_FULL_DIGEST_VALUES = 50_000_000
_SAMPLED_VALUES = 4096


def weight_digests(model: nn.Module) -> list[Any]:
    """A name and a digest for each weight of `model`, as plain JSON; sampled where much of it is frozen."""
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    digests: list[Any] = []
    for name, value in sorted(model.state_dict().items()):
        whole = frozen <= _FULL_DIGEST_VALUES or "lora_" in name or "modules_to_save" in name
        digests.append([name, digest(value, whole)])
    return digests


def digest(value: Tensor, whole: bool = True) -> str:
    """sha256 of a tensor's shape, type and values, or of a fixed sample of these."""
    flat = value.detach().flatten()
    if not whole and flat.numel() > _SAMPLED_VALUES:
        flat = flat[:: -(-flat.numel() // _SAMPLED_VALUES)]
    data = flat.contiguous().view(torch.uint8).cpu().numpy() if flat.numel() else b""
    return fingerprint(list(value.shape), str(value.dtype), data)
