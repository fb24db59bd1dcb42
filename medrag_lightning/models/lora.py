"""LoRA adapters on the towers of a reader, by peft."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from medrag_lightning.models.families import Family

ADAPTER_NAME = "reader"


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class LoraSettings:
    """Which low-rank updates are trained (JOMED: rank 8, alpha 16, no dropout).

    Args:
        rank: rank of the updates.
        alpha: updates are scaled by alpha / rank.
        dropout: on the input of the updates, in training.
        language: adapt the language tower.
        vision: adapt the vision tower (JOMED does; off here, since it costs memory and shifts what retrieval sees).
        targets: `all_linear`, or the last names of the layers to adapt (``[q_proj, v_proj]``).
        projector: train the projector between the towers in full, and keep it beside the adapter.
        seed: of the adapter's first weights.
    """

    rank: int = 8
    alpha: float = 16
    dropout: float = 0.0
    language: bool = True
    vision: bool = False
    targets: Literal["all_linear"] | list[str] = "all_linear"
    projector: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0.0 <= self.dropout < 1.0:
            got = f"{self.rank}, {self.alpha}, {self.dropout}"
            raise ValueError(f"LoRA needs rank >= 1, alpha > 0 and 0 <= dropout < 1, got {got}")
        if not (self.language or self.vision):
            raise ValueError("LoRA adapts no tower: set language or vision to true, or leave the adapter out")
        if self.targets != "all_linear" and not self.targets:
            raise ValueError("LoRA targets are empty: name layers, or write all_linear")

    def describe(self) -> dict[str, Any]:
        """The settings as plain JSON."""
        return asdict(self)


def target_pattern(model: nn.Module, family: Family, settings: LoraSettings) -> str:
    """The regular expression that peft matches against whole module names: the chosen layers of the chosen towers.

    The projector is left out even where it lies inside the vision tower (Qwen). ValueError names unknown targets.
    """
    towers = [name for name, on in ((family.language, settings.language), (family.vision, settings.vision)) if on]
    skipped = "|".join((*family.projectors, "patch_embed"))  # a convolution that shares its name with a linear layer
    scope = rf"(?!(?:.*\.)?(?:{skipped})(?:\.|$))(?:.*\.)?(?:{'|'.join(towers)})\.(?:.*\.)?"
    inside = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and re.fullmatch(scope + r"[^.]+", name)
    }
    chosen = inside if settings.targets == "all_linear" else set(settings.targets)
    if unknown := sorted(chosen - inside):
        where = " or ".join(towers)
        raise ValueError(f"LoRA targets {unknown} are not linear layers of {where}; there are: {sorted(inside)}")
    return scope + f"(?:{'|'.join(sorted(chosen))})"


def add_adapter(model: nn.Module, family: Family, settings: LoraSettings) -> nn.Module:
    """The model with a fresh trainable adapter named `reader`; everything else is frozen."""
    import peft

    with _own_random_stream(model, settings.seed):
        kept_whole = _projectors(model, family) if settings.projector else None
        config = _config(model, family, settings, modules_to_save=kept_whole)
        adapted: nn.Module = peft.get_peft_model(model, config, adapter_name=ADAPTER_NAME)
    return adapted


def inject_adapter(model: nn.Module, family: Family, settings: LoraSettings) -> None:
    """Puts a fresh trainable adapter into the layers of `model` itself, without a wrapper; everything else is frozen."""
    import peft

    with _own_random_stream(model, settings.seed):
        peft.inject_adapter_in_model(_config(model, family, settings), model, adapter_name=ADAPTER_NAME)
    if settings.projector:
        for name in _projectors(model, family):
            model.get_submodule(name).requires_grad_(True)


def _config(model: nn.Module, family: Family, settings: LoraSettings, **more: Any) -> Any:
    import peft

    return peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=target_pattern(model, family, settings),
        **more,
    )


@contextmanager
def _own_random_stream(model: nn.Module, seed: int) -> Iterator[None]:
    """An adapter's first weights are its own random stream, on whatever device the base is."""
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        torch.manual_seed(seed)
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # peft asks for it
        yield


def _projectors(model: nn.Module, family: Family) -> list[str]:
    found = [(name, module) for name, module in model.named_modules() if name.rsplit(".", 1)[-1] in family.projectors]
    lists = [f"{name}.{i}" for name, module in found if isinstance(module, nn.ModuleList) for i in range(len(module))]
    return [name for name, module in found if not isinstance(module, nn.ModuleList)] + lists


def train_adapter_only(model: nn.Module, mode: bool) -> None:
    """Puts the adapter's own modules in training mode and the frozen base in evaluation mode."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    model.eval()
    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and hasattr(module, "lora_dropout"):
            module.lora_dropout.train(mode)
        elif isinstance(module, ModulesToSaveWrapper):
            module.modules_to_save.train(mode)


def settle_adapter(adapted: Any) -> nn.Module:
    """Makes the adapter of `add_adapter` part of the base for good, and gives the base without it, frozen parts and all.

    Float32 weights take the update up. Others (half precision, 4 bits) would lose it to rounding: they keep it beside them,
    as buffers of the layer that are added to its output just as the adapter did. ValueError if an update is not finite.
    """
    from peft.tuners.lora import LoraLayer

    for layer in adapted.modules():
        if isinstance(layer, LoraLayer):
            base: Any = layer.get_base_layer()
            if base.weight.dtype == torch.float32:
                layer.merge(safe_merge=True)
            else:
                down, up = layer.lora_A[ADAPTER_NAME].weight, layer.lora_B[ADAPTER_NAME].weight
                _keep_beside(base, down.detach(), up.detach(), float(layer.scaling[ADAPTER_NAME]))
    unloaded: nn.Module = adapted.unload()
    return unloaded


def _keep_beside(layer: nn.Module, down: Tensor, up: Tensor, scaling: float) -> None:
    """Adds ``scaling * up(down(x))`` to the output of `layer` from now on; a second update is added to a first one."""
    if not (torch.isfinite(down).all() and torch.isfinite(up).all()):
        raise ValueError("an adapter's update is not finite; its training went wrong")
    number = sum(name.startswith("kept_lora_down") for name, _ in layer.named_buffers(recurse=False))
    names = f"kept_lora_down_{number}", f"kept_lora_up_{number}"
    layer.register_buffer(names[0], down)
    layer.register_buffer(names[1], up)

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        below, above = module.get_buffer(names[0]), module.get_buffer(names[1])
        return (output + linear(linear(inputs[0].to(below.dtype), below), above) * scaling).to(output.dtype)

    handle = layer.register_forward_hook(add)
    layer.kept_lora = [*getattr(layer, "kept_lora", ()), (*names, scaling, handle)]  # type: ignore[assignment]


def merge_kept(model: nn.Module) -> None:
    """Adds the updates that `settle_adapter` kept beside weights to these; all of them must be float32 by now."""
    for layer in model.modules():
        kept: Any = layer.__dict__.pop("kept_lora", ())
        for down_name, up_name, scaling, handle in kept:
            weight: Any = layer.weight
            if weight.dtype != torch.float32:
                raise ValueError(f"an update cannot be merged into weights of type {weight.dtype} without losing much of it")
            down, up = layer.get_buffer(down_name).float(), layer.get_buffer(up_name).float()
            weight.data += (up @ down) * scaling
            handle.remove()
            del layer._buffers[down_name], layer._buffers[up_name]
