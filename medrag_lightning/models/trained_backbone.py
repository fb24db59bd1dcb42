"""A reader that an earlier stage trained, as the base of the next: what preference tuning starts from and is compared with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.models.backbones import Backbone
from medrag_lightning.models.checkpoints import read_trained
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.lora import LoraSettings, settle_adapter
from medrag_lightning.models.reader_digest import digest
from medrag_lightning.models.tiny import Loaded, refuse_contradictions

STAGES, PREFIX = ("reader_raft", "reader_preference", "query_generator", "reader_trace", "joint"), "reader."


class TrainedBackbone:
    """The reader of a checkpoint, tokenizer included, with what was trained made part of its weights.

    An adapter put on top of it is tuned from that reader, and with the adapter off it *is* that reader (`HfReader.reference`):
    the reference of preference tuning. Without an adapter, and with ``freeze: all_but_adapter``, it is that reader to score
    with. A checkpoint that was itself tuned so needs a TrainedBackbone as its own `backbone`: stages may follow each other.

    Where a weight is float32, the checkpoint's LoRA update is merged into it (numbers agree to rounding, some 1e-6). A weight
    in half precision or in 4 bits would lose much of a small update to rounding, so there the update is kept beside it,
    frozen, at LoRA's price, and numbers are bit-equal. Weights trained in full are rounded to the base's precision, as the
    computation did.

    Args:
        backbone: of the checkpoint's reader, configured as in the run that wrote it.
        checkpoint: the ``.ckpt`` file of a run of stage `reader_raft`, `reader_preference`, `query_generator`, `reader_trace`
            or `joint`; tensors and plain JSON only are read from it.
        adapter: LoRA settings of the checkpoint's reader; null if it was trained without.
    """

    def __init__(self, backbone: Backbone, checkpoint: str, adapter: LoraSettings | None = None) -> None:
        self.backbone, self.checkpoint, self.adapter = backbone, checkpoint, adapter
        self._description: dict[str, Any] | None = None

    @property
    def quantization(self) -> str | None:
        """That of the base, if it is quantised."""
        found: str | None = getattr(self.backbone, "quantization", None)
        return found

    def load(self, texts: Iterable[str]) -> Loaded:
        """The trained reader; `texts` is not read, since the checkpoint brings its tokenizer."""
        return self._build(*self._read())

    def describe(self, loaded: Loaded) -> dict[str, Any]:
        """The reader's own description, and the sha256 of its trained weights; where the checkpoint lies does not matter."""
        assert self._description is not None, "describe what was loaded"
        return self._description

    def reload(self, description: dict[str, Any]) -> Loaded:
        """The trained reader; ValueError where the description is of another one."""
        mine, weights = self._read()
        if description.get("kind") != "trained":
            raise ValueError(
                f"the checkpoint's reader stands on {description.get('kind')!r} itself, not on a reader of an earlier stage: "
                "give its backbone in place of TrainedBackbone"
            )
        if description["weights"] != mine["weights"]:
            raise ValueError(
                f"the checkpoint was tuned from another reader than that of {self.checkpoint} (sha256 of its trained weights "
                f"{description['weights'][:12]}, here {mine['weights'][:12]}): give TrainedBackbone the checkpoint that it was "
                "tuned from"
            )
        refuse_contradictions(mine["base"], description["base"])
        return self._build(mine, weights)

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        told, weights = read_trained(self.checkpoint, STAGES, PREFIX, "TrainedBackbone")
        if told.get("learned_steering"):
            raise ValueError(
                f"{self.checkpoint}: its reader learnt its steering, which is no part of a base: train it without "
                "learned_steering"
            )
        digests = [[name, digest(value)] for name, value in sorted(weights.items())]
        return {"kind": "trained", "weights": fingerprint(digests), "base": told}, weights

    def _build(self, description: dict[str, Any], weights: dict[str, Tensor]) -> Loaded:
        told = description["base"]
        adapter = None if self.adapter is None else self.adapter.describe()
        try:
            refuse_contradictions({"adapter": adapter}, {"adapter": told["adapter"]})
            reader = HfReader(self.backbone, self.adapter, told["freeze"])
            reader.restore(told)
        except ValueError as error:
            raise ValueError(f"TrainedBackbone, {self.checkpoint}: {error}") from error
        trained = {name: parameter for name, parameter in reader.named_parameters() if parameter.requires_grad}
        missing, unknown = set(trained) - set(weights), set(weights) - set(reader.state_dict())
        if missing or unknown:
            raise ValueError(
                f"{self.checkpoint} does not fit its own reader: it lacks {len(missing)} trained weights {sorted(missing)[:3]} "
                f"and holds {len(unknown)} unknown ones {sorted(unknown)[:3]}"
            )
        reader.load_state_dict(weights, strict=False)
        if reader.adapter is not None and reader.model is not None:
            settle_adapter(reader.model)
        if reader.compute_dtype != torch.float32:
            for name, parameter in trained.items():
                if "lora_" not in name:
                    parameter.data = parameter.data.to(reader.compute_dtype)
        reader.core.requires_grad_(False).eval()
        self._description = description
        return Loaded(reader.core, reader.processor)
