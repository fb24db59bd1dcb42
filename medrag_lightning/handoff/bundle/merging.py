"""Adapters made part of the weights they stand on, so that a plain model remains."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.lora import merge_kept


def merge_into_base(model: nn.Module) -> nn.Module:
    """Merges every low-rank update inside `model` into its layer, in place, and takes the wrappers off; gives the model.

    The weights must be float32, or much of an update is lost to rounding. ValueError where an update is not finite.
    """
    if any("lora_" in name for name, _ in model.named_parameters()):  # peft is not needed, nor imported, where there is none
        from peft.tuners.lora import LoraLayer
        from peft.utils import ModulesToSaveWrapper

        for name, module in list(model.named_modules()):
            if isinstance(module, LoraLayer):
                layer: Any = module
                layer.merge(safe_merge=True)
                _replace(model, name, layer.get_base_layer())
            elif isinstance(module, ModulesToSaveWrapper):
                _replace(model, name, module.modules_to_save[module.active_adapters[0]])
    merge_kept(model)
    return model


def merge_reader(reader: HfReader) -> None:
    """Leaves the reader without an adapter, and with the same answers; its weights must be float32."""
    merge_into_base(reader.core)
    reader.model, reader.adapter, reader.freeze = reader.core, None, "all_but_adapter"
    reader.vision_cache.clear()
    reader.requires_grad_(False).eval()


def cast_reader(reader: HfReader, dtype: torch.dtype) -> None:
    """Puts weights and computation of the reader into a type.

    Other buffers stay: frequencies of rotary positions are float32 in every reader that is loaded, whatever its type.
    """
    for parameter in reader.core.parameters():
        parameter.data = parameter.data.to(dtype)
    for layer in reader.core.modules():
        for names in layer.__dict__.get("kept_lora", ()):
            for name in names[:2]:
                layer._buffers[name] = layer.get_buffer(name).to(dtype)
    reader.compute_dtype = dtype
    reader.vision_cache.clear()


def _replace(model: nn.Module, name: str, by: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, by)
