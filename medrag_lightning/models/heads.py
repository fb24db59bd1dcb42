"""Heads of a retriever (JOMED, stage 2): query vectors that train around a frozen dual encoder.

Source: JOMED (arXiv 2508.17394), "The two heads": ``e(q) = mix f_trained(q) + (1 - mix) f_frozen(q)``, not normalised again. A
head belongs to the side that is searched, and both heads see the query image alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medrag_lightning.interfaces import DualEncoder
from medrag_lightning.models.checkpoints import read_trained

Side = Literal["image", "text"]
HeadKind = Literal["tower", "projection", "lora"]
STAGES, PREFIX = ("retriever_kl", "joint"), "heads."


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class HeadLora:
    """Low-rank updates of a head of kind `lora`.

    Args:
        rank: rank of the updates.
        alpha: updates are scaled by alpha / rank.
        dropout: on the input of the updates; needs the heads' `mode` to be ``train``.
        seed: of the first weights.
    """

    rank: int = 8
    alpha: float = 16
    dropout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0.0 <= self.dropout < 1.0:
            got = f"{self.rank}, {self.alpha}, {self.dropout}"
            raise ValueError(f"a LoRA head needs rank >= 1, alpha > 0 and 0 <= dropout < 1, got {got}")


class QueryHeads(nn.Module):
    """Query heads around a frozen dual encoder; implements `interfaces.QueryTowers`.

    Args:
        encoder: the encoder that made the evidence store. It stays frozen and in evaluation mode.
        sides: which heads train: ``text`` (image queries search texts), ``image``, or both.
        kind: ``tower``, a full copy of the image tower (JOMED); ``projection``, a linear map of the frozen vector, the
            identity at first; ``lora``, a copy of the tower with low-rank updates of its linear layers.
        query_mix: weight of the trained vector in e(q).
        mode: of the trained towers; ``eval`` keeps their dropout off, so that the query vectors that learn are those that
            search. (In JOMED's code one head learns in one mode, the other in the other.)
        lora: settings for kind `lora`; null for the defaults.
    """

    trains_passages = False

    def __init__(
        self,
        encoder: DualEncoder,
        sides: list[Side],
        kind: HeadKind = "tower",
        query_mix: float = 0.15,
        mode: Literal["eval", "train"] = "eval",
        lora: HeadLora | None = None,
    ) -> None:
        super().__init__()
        if not sides or len(set(sides)) != len(sides):
            raise ValueError(f"sides must name `text`, `image` or both, each once; got {sides}")
        if not 0 < query_mix <= 1:
            raise ValueError(f"query_mix must be in (0, 1], got {query_mix}")
        if lora is not None and kind != "lora":
            raise ValueError(f"lora would be ignored by heads of kind {kind!r}; leave it out, or set kind to lora")
        if lora is not None and lora.dropout and mode == "eval":
            raise ValueError(f"lora.dropout={lora.dropout} would be ignored in mode eval; set mode to train")
        self.encoder, self.sides, self.query_mix, self.mode = encoder, tuple(sides), query_mix, mode
        self.kind: HeadKind = kind
        self.lora = lora or HeadLora()
        self.towers = nn.ModuleDict()
        self.share = 1.0
        self._mix_of: dict[str, float] = {}
        self._encoder_fingerprint = ""

    def prepare(self, texts: Iterable[str]) -> None:
        """Loads the encoder, freezes it, and makes a head for each of `sides`; once."""
        self.encoder.prepare(texts)
        self._build()

    def frozen_vectors(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """float32 (B, D) image vectors of the frozen encoder."""
        with torch.no_grad():
            return self.encoder.image_vectors(inputs)

    def query_vectors(self, side: str, inputs: Mapping[str, Tensor], frozen_BD: Tensor) -> Tensor:
        """float32 (B, D) e(q) for a side; the frozen vectors for a side without a head."""
        if side not in self.towers:
            return frozen_BD
        mix = self._mix_of[side]
        trained_BD: Tensor = self.towers[side](inputs, frozen_BD)
        return mix * trained_BD + (1 - mix) * frozen_BD

    def ask_with_share(self) -> float:
        """From now on e(q) weighs the trained vector with `share` of query_mix, as validation chose; gives that weight."""
        for side in self.sides:
            self._mix_of[side] = self.query_mix * self.share
        return self.query_mix * self.share

    def passage_vectors(self, side: str, inputs: Mapping[str, Tensor]) -> Tensor:
        """Refused: passages stay as they were stored."""
        raise RuntimeError("query heads leave passages as they are; use models.heads.BothSides to train them")

    def start_from(self, description: dict[str, Any], weights: Mapping[str, Tensor], where: str) -> None:
        """Begins with the heads of another run; those of sides that do not train here are carried along, frozen.

        A side that has no head there begins, as ever, as the frozen encoder. (JOMED: 2b starts from 2a.)
        """
        self._same_encoder(description, where)
        for side in description["sides"]:
            if side in self.sides:
                _same_kind(self._own(), description, where)
            else:
                self.towers[side] = make_head(self.encoder, description["kind"], HeadLora(**description["lora"]))
                self._mix_of[side] = description["query_mix"] * description["share"]
            load_head(self.towers[side], side, weights, where)
            if side not in self.sides:
                self.towers[side].requires_grad_(False)
        self.train(self.training)

    def describe(self) -> dict[str, Any]:
        """Heads and encoder."""
        parts = {"encoder": self.encoder.settings(), "encoder_fingerprint": self._encoder_fingerprint}
        return {**self._own(), "share": self.share, "sides": list(self.sides), **parts}

    def restore(self, description: dict[str, Any]) -> None:
        """Refuses other sides, another kind, mix or encoder; loads the encoder where that has not been done."""
        if set(description["sides"]) != set(self.sides):
            raise ValueError(
                f"the checkpoint trained heads {description['sides']}, this run trains {list(self.sides)}; set "
                f"--model.init_args.heads.init_args.sides {description['sides']}, or start from it with init_from"
            )
        _same_kind(self._own(), description, "the checkpoint")
        self.share = description["share"]
        if not self._encoder_fingerprint:
            self.encoder.restore(description["encoder"])
            self._build()
        self._same_encoder(description, "the checkpoint")

    def train(self, mode: bool = True) -> QueryHeads:
        """Training mode reaches the trained towers alone, and only where `mode` of this object is ``train``."""
        super().train(mode)
        _module(self.encoder).eval()
        for side, tower in self.towers.items():
            tower.train(mode and self.mode == "train" and side in self.sides)
        return self

    def _build(self) -> None:
        if self._encoder_fingerprint:
            return
        _module(self.encoder).requires_grad_(False)
        self._encoder_fingerprint = self.encoder.fingerprint()
        for side in self.sides:
            self.towers[side] = make_head(self.encoder, self.kind, self.lora)
            self._mix_of[side] = self.query_mix
        self.train(self.training)

    def _own(self) -> dict[str, Any]:
        return {"kind": self.kind, "query_mix": self.query_mix, "lora": asdict(self.lora)}

    def _same_encoder(self, description: Mapping[str, Any], where: str) -> None:
        if description["encoder_fingerprint"] != self._encoder_fingerprint:
            raise ValueError(
                f"{where}: its heads were trained around another encoder (fingerprint "
                f"{description['encoder_fingerprint'][:12]}, here {self._encoder_fingerprint[:12]}); give the encoder that "
                "made the evidence store of that run"
            )


class TowerHead(nn.Module):
    """A copy of the image tower; `frozen_BD` is not used."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, inputs: Mapping[str, Tensor], frozen_BD: Tensor) -> Tensor:
        """float32 (B, D) unit vectors."""
        vectors: Tensor = self.tower(inputs)
        return vectors


class ProjectionHead(nn.Module):
    """A linear map of the frozen vector, of unit length again; the identity at first."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(dim))

    def forward(self, inputs: Mapping[str, Tensor], frozen_BD: Tensor) -> Tensor:
        """float32 (B, D) unit vectors."""
        return functional.normalize(frozen_BD.float() @ self.weight.T, dim=-1)


def make_head(encoder: DualEncoder, kind: HeadKind, lora: HeadLora) -> nn.Module:
    """A head that gives, before training, the encoder's own image vectors."""
    if kind == "projection":
        return ProjectionHead(encoder.dim).to(device_of(encoder))
    tower = encoder.image_tower()
    if kind == "tower":
        return TowerHead(tower.requires_grad_(True))
    layers = [name for name, module in tower.named_modules() if type(module) is nn.Linear]
    if not layers:
        raise ValueError(
            f"a LoRA head adapts linear layers, and the image tower of {type(encoder).__name__} has none; set kind to tower"
        )
    import peft

    tower.requires_grad_(False)
    config = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lora.seed)
        adapted: nn.Module = peft.inject_adapter_in_model(config, tower)
    return TowerHead(adapted)


def load_head(head: nn.Module, side: str, weights: Mapping[str, Tensor], where: str) -> None:
    """Puts the trained weights of a side (``towers.SIDE.*``) into its head; ValueError unless they are exactly those."""
    prefix = f"towers.{side}."
    mine = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    trained = {name for name, parameter in head.named_parameters() if parameter.requires_grad}
    if set(mine) != trained:
        odd = sorted(set(mine) ^ trained)
        raise ValueError(f"{where}: the weights of head {side!r} do not fit, {len(odd)} differ by name, such as {odd[0]!r}")
    head.load_state_dict(mine, strict=False)


def read_heads(path: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a checkpoint of stage `retriever_kl` or `joint` says of its heads, and their weights."""
    return read_trained(path, STAGES, PREFIX, "a head")


def device_of(encoder: DualEncoder) -> torch.device:
    """Where the encoder's weights are."""
    return next((parameter.device for parameter in _module(encoder).parameters()), torch.device("cpu"))


def _same_kind(mine: Mapping[str, Any], description: Mapping[str, Any], where: str) -> None:
    for name, value in mine.items():
        if description[name] != value and (name != "lora" or mine["kind"] == "lora"):
            raise ValueError(f"{where}: its heads have {name} {description[name]}, this run has {value}; set them equal")


def _module(encoder: DualEncoder) -> nn.Module:
    if not isinstance(encoder, nn.Module):
        raise ValueError(f"{type(encoder).__name__} has no weights that torch could train; use a trainable dual encoder")
    return encoder
