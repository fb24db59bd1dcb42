"""Features of images, computed once for each distinct image and kept across batches while the weights stay as they are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medrag_lightning.batches import EncodedPrompts
from medrag_lightning.models.families import Family

Features = tuple[Tensor, ...]
"""What the language tower reads of one image: its tokens (T, D), then what later layers add to them (deepstack), if any."""

_IMAGES_PER_PASS = 64
_SAMPLED_VALUES = 8  # of each weight that can be trained


class VisionCache:
    """The least recently used features go first. Everything goes when a weight of the image path has changed.

    A change is seen by the place in memory and the version counter of every weight; and, since fused optimizers count no
    version, by a sample of the values of those that can be trained. A reader that trains its image path also clears it with
    every change of mode.

    Args:
        max_bytes: of all features kept; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes must not be negative, got {max_bytes}")
        self.max_bytes, self.computed = max_bytes, 0
        self._kept: OrderedDict[str, Features] = OrderedDict()
        self._bytes = 0
        self._modules: list[nn.Module] = []
        self._model: nn.Module | None = None
        self._stamp: tuple[object, ...] = ()

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Forgets every image."""
        self._kept.clear()
        self._bytes, self._modules, self._model = 0, [], None

    def features(self, model: Any, family: Family, prompts: EncodedPrompts, alone: bool = False) -> list[Features]:
        """The features of every image in `prompts.vision`, in order, without gradients; those with a key are kept.

        With `alone`, each image has a pass of its own, so that its bits do not depend on what else was in a batch: training
        that is resumed then goes on as if it had not been interrupted. What was computed together is kept apart from that.
        """
        with torch.inference_mode(False), torch.no_grad():  # what an evaluation keeps may serve training
            return self._features(model, family, prompts, alone)

    def _features(self, model: Any, family: Family, prompts: EncodedPrompts, alone: bool) -> list[Features]:
        self._forget_old_weights(model, family)
        keys = [f"alone {key}" for key in prompts.image_keys] if alone else prompts.image_keys
        at_once = 1 if alone else _IMAGES_PER_PASS
        if not prompts.vision:
            return []
        if not keys:
            return self._compute(model, family, prompts.vision, None)
        missing = [i for i, key in enumerate(keys) if key not in self._kept]
        made: dict[int, Features] = {}
        for start in range(0, len(missing), at_once):
            some = missing[start : start + at_once]
            made |= dict(zip(some, self._compute(model, family, prompts.vision, some), strict=True))
        found = [made[i] if i in made else self._kept[key] for i, key in enumerate(keys)]
        for key, features in zip(keys, found, strict=True):
            self._keep(key, features)
        return found

    def _compute(self, model: Any, family: Family, vision: Mapping[str, Tensor], index: list[int] | None) -> list[Features]:
        # Cloned: a view would keep the features of its whole pass alive.
        features: list[Features] = [tuple(part.clone() for part in of) for of in image_features(model, family, vision, index)]
        self.computed += len(features)
        return features

    def _keep(self, key: str, features: Features) -> None:
        if key in self._kept:
            self._kept.move_to_end(key)
            return
        self._kept[key] = features
        self._bytes += _size(features)
        while self._bytes > self.max_bytes:
            self._bytes -= _size(self._kept.popitem(last=False)[1])

    def _forget_old_weights(self, model: nn.Module, family: Family) -> None:
        if model is not self._model:
            self.clear()
            names = {family.vision, *family.projectors}
            self._modules = [m for name, m in model.named_modules() if name.rsplit(".", 1)[-1] in names]
            self._model = model
        tensors = [_local(t) for module in self._modules for t in (*module.parameters(), *module.buffers())]
        trained = [_local(t) for module in self._modules for t in module.parameters() if t.requires_grad]
        values = torch.cat([_sample(t) for t in trained]).tolist() if trained else []
        stamp = (*((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors), *values)
        if stamp != self._stamp:
            self._kept.clear()
            self._bytes = 0
        self._stamp = stamp


def image_features(model: Any, family: Family, vision: Mapping[str, Tensor], index: list[int] | None = None) -> list[Features]:
    """The features of the images numbered `index` (None: of all), with a gradient where gradients are on."""
    inputs = vision if index is None else select_images(family, vision, index)
    _gather_weights_for_features(model)
    output = model.get_image_features(**inputs, return_dict=True)
    parts = [output.pooler_output, *getattr(output, "deepstack_features", ())]
    return list(zip(*parts, strict=True))


def encoder_output(features: Sequence[Features]) -> Any:
    """What ``model(mm_encoder_outputs={"image": ...})`` takes for images whose features are `features`, in reading order."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling
    from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

    pooled, *deeper = (list(part) for part in zip(*features, strict=True))
    if deeper:
        return BaseModelOutputWithDeepstackFeatures(pooler_output=pooled, deepstack_features=deeper)
    return BaseModelOutputWithPooling(pooler_output=pooled)


def select_images(family: Family, vision: Mapping[str, Tensor], images: Sequence[int]) -> dict[str, Tensor]:
    """The image inputs of the images numbered `images`, in that order and as often as named; empty for none."""
    if not images:
        return {}
    chosen = {}
    for name, value in vision.items():
        if family.image_layout == "patch" and name == "pixel_values":
            patches = vision["image_grid_thw"].prod(-1).cpu()
            starts = patches.cumsum(0) - patches
            rows = torch.cat([torch.arange(int(starts[i]), int(starts[i] + patches[i])) for i in images])
        else:
            rows = torch.tensor(images)
        chosen[name] = value[rows.to(value.device)]
    return chosen


def _gather_weights_for_features(model: nn.Module) -> None:
    """Where weights are divided among processes (FSDP2), they are gathered before a forward only; here is another one."""
    if hasattr(next(model.parameters()), "to_local"):
        from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

        if isinstance(model, FSDPModule):
            register_fsdp_forward_method(model, "get_image_features")


def _local(tensor: Any) -> Tensor:
    """What of a weight this process holds, where it is divided among processes."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local


def _sample(tensor: Tensor) -> Tensor:
    flat = tensor.detach().flatten()
    return flat[:: max(1, len(flat) // _SAMPLED_VALUES)].float()


def _size(features: Features) -> int:
    return sum(part.numel() * part.element_size() for part in features)
