"""Both sides of a retriever trained by distillation: the whole encoder, passages included."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medrag_lightning.interfaces import DualEncoder
from medrag_lightning.models.heads import Side, read_heads
from medrag_lightning.models.trained_encoder import TrainedEncoder


class BothSides(nn.Module):
    """The whole encoder trains, passages included; implements `interfaces.QueryTowers`.

    The evidence store of the untrained encoder grows stale: `callbacks.IndexRefresh` embeds and searches anew.

    Args:
        encoder: what trains: its trainable weights, or all but the temperature where it comes frozen (`TrainedEncoder`).
        sides: whose pools are learned from.
    """

    trains_passages = True
    share = 1.0

    def __init__(self, encoder: DualEncoder, sides: list[Side]) -> None:
        super().__init__()
        if not sides or len(set(sides)) != len(sides):
            raise ValueError(f"sides must name `text`, `image` or both, each once; got {sides}")
        self.encoder, self.sides = encoder, tuple(sides)
        self.before: nn.Module = nn.Identity()
        self._description: dict[str, Any] = {}

    def prepare(self, texts: Iterable[str]) -> None:
        """Loads the encoder and keeps a frozen copy of its image tower; once."""
        self.encoder.prepare(texts)
        self._build()

    def frozen_vectors(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """float32 (B, D) image vectors of the encoder before training."""
        with torch.no_grad():
            vectors: Tensor = self.before(inputs)
        return vectors

    def query_vectors(self, side: str, inputs: Mapping[str, Tensor], frozen_BD: Tensor) -> Tensor:
        """float32 (B, D) unit image vectors; the same for both sides."""
        return self.encoder.image_vectors(inputs)

    def passage_vectors(self, side: str, inputs: Mapping[str, Tensor]) -> Tensor:
        """float32 (N, D) unit vectors of passages' images or texts."""
        return self.encoder.image_vectors(inputs) if side == "image" else self.encoder.text_vectors(inputs)

    def start_from(self, description: dict[str, Any], weights: Mapping[str, Tensor], where: str) -> None:
        """Begins with another run's trained weights."""
        _same(self._description, description, where)
        _load(self, weights, where)

    def describe(self) -> dict[str, Any]:
        """The encoder before training, and the sides."""
        return self._description

    def restore(self, description: dict[str, Any]) -> None:
        """Refuses another encoder; loads it where that has not been done."""
        if not self._description:
            self.encoder.restore(description["encoder"])
            self._build()
        _same(self._description, description, "the checkpoint")

    def train(self, mode: bool = True) -> BothSides:
        """The copy stays in evaluation mode."""
        super().train(mode)
        self.before.eval()
        return self

    def _build(self) -> None:
        if self._description:
            return
        encoder: Any = self.encoder
        parts = {"encoder": encoder.settings(), "encoder_fingerprint": encoder.fingerprint()}
        self._description = copy.deepcopy({"kind": "both_sides", "sides": list(self.sides), **parts})
        self.before = encoder.image_tower().requires_grad_(False).eval()
        if not any(parameter.requires_grad for parameter in encoder.parameters()):
            for name, parameter in encoder.named_parameters():
                parameter.requires_grad_(not name.endswith(("logit_scale", "logit_bias")))


class DistilledEncoder(TrainedEncoder):
    """`encoder` with what a run of stage `retriever_kl` with `BothSides` has trained; frozen. Loaded when first needed.

    Args:
        encoder: configured as in the run that wrote the checkpoint.
        checkpoint: the ``.ckpt`` file.
    """

    def _trained(self) -> DualEncoder:
        encoder: Any = self.encoder
        if not self._is_loaded:
            description, weights = read_heads(self.checkpoint)
            towers = BothSides(encoder, description["sides"])
            towers.restore(description)
            towers.start_from(description, weights, self.checkpoint)
            encoder.requires_grad_(False).eval()
            self._is_loaded = True
        return encoder  # type: ignore[no-any-return]


def _same(mine: Mapping[str, Any], saved: Mapping[str, Any], where: str) -> None:
    if saved.get("kind") != "both_sides":
        raise ValueError(f"{where}: it trained query heads, not both sides; configure models.heads.QueryHeads")
    if saved["encoder_fingerprint"] != mine["encoder_fingerprint"]:
        raise ValueError(f"{where}: it was trained from another encoder; give the one that it started from")


def _load(towers: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    trained = {name for name, parameter in towers.named_parameters() if parameter.requires_grad}
    if odd := sorted(set(weights) ^ trained):
        raise ValueError(f"{where}: {len(odd)} trained weights differ by name, such as {odd[0]!r}; another encoder?")
    towers.load_state_dict(dict(weights), strict=False)
