"""The image path of a reader: the vision tower and what joins it to the language tower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medrag_lightning.batches import EncodedPrompts
from medrag_lightning.models.families import Family
from medrag_lightning.models.vision_cache import Features, VisionCache, image_features


def trained_image_weights(model: nn.Module, family: Family) -> list[nn.Parameter]:
    """The weights of the image path that are trained; none where it stays as it is."""
    parts = {family.vision, *family.projectors}
    return [p for name, p in model.named_parameters() if p.requires_grad and parts.intersection(name.split("."))]


def current_features(
    cache: VisionCache, model: nn.Module, family: Family, prompts: EncodedPrompts, training: bool
) -> list[Features]:
    """The features of every image in ``prompts.vision``, in order.

    A path that stays as it is gives them through `cache`, without gradients; one that is being trained computes each image
    anew, with a gradient where gradients are on.
    """
    tuning = training or torch.is_grad_enabled()
    if tuning and prompts.vision and trained_image_weights(model, family):
        vision: Mapping[str, Any] = prompts.vision
        return image_features(model, family, vision)
    return cache.features(model, family, prompts, alone=tuning)


def zero_of_image_path(model: nn.Module, family: Family) -> Tensor:
    """Zero that depends on every trained weight of the image path.

    So a batch without images gives them a gradient of zero, as distributed training wants, and not none.
    """
    chosen = [p.sum() for p in trained_image_weights(model, family)]
    return 0.0 * torch.stack(chosen).sum() if chosen else torch.zeros((), device=next(model.parameters()).device)
