"""Any CLIP- or SigLIP-like dual encoder of the Hugging Face hub, behind `interfaces.DualEncoder`.

`transformers` is imported when the weights are first needed, not with this module.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from medrag_lightning.models.embedding import refuse_contradictions
from medrag_lightning.models.hf_towers import Freeze, HfTowers
from medrag_lightning.models.lora import LoraSettings

DType = Literal["float32", "float16", "bfloat16"]


class HfDualEncoder(HfTowers):
    """Images and texts to unit vectors in one space, by a pretrained dual encoder; frozen unless told otherwise.

    Weights are read as safetensors only, code on the hub is never run. Texts longer than the model's context are cut,
    as these models were trained (JOMED cuts captions at 256 tokens). It is a torch module: inside a Lightning module it
    moves to the trainer's device.

    Args:
        name: hub name, or a folder that holds the model and its processor.
        revision: branch, tag or commit on the hub.
        dtype: of the weights and of the computation; vectors are float32 always.
        device: where the weights go when they are loaded; ``auto``: the GPU if there is one.
        batch_size: images or texts in one forward pass of `embed_images` and `embed_texts`.
        image_size_px: side of the square that images are brought to, with interpolated position embeddings; null for
            the model's own.
        max_text_tokens: shorter cut of texts than the model's context; null for the context.
        freeze: what a stage does not train.
        lora: low-rank updates that a stage trains in place of the weights; `language` is the text tower.
    """

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        dtype: DType = "float32",
        device: str = "auto",
        batch_size: int = 64,
        image_size_px: int | None = None,
        max_text_tokens: int | None = None,
        freeze: Freeze = "all",
        lora: LoraSettings | None = None,
    ) -> None:
        super().__init__(batch_size, image_size_px, max_text_tokens, freeze, lora)
        if revision is not None and Path(name).is_dir():
            raise ValueError(f"revision={revision!r} would be ignored: {name!r} is a folder; leave it out")
        if freeze != "all" and dtype != "float32":
            raise ValueError(
                f"dtype={dtype!r} loses small updates of weights; train float32 with trainer.precision bf16-mixed, or lora"
            )
        self.name, self.revision, self.dtype, self.device_name = name, revision, dtype, device

    def describe(self) -> dict[str, str]:
        """Name (of a folder: its last part), weights and transform; the latter two are sha256."""
        return {**super().describe(), "name": Path(self.name).name if Path(self.name).is_dir() else self.name}

    def settings(self) -> dict[str, Any]:
        """What is trained, and the sha256 of the weights it starts from; not where they lie."""
        return {
            "kind": "hf",
            "base_sha256": self.base_sha256(),
            "image_size_px": self.image_size_px,
            "max_text_tokens": self.max_text_tokens,
            "freeze": self.freeze,
            "lora": None if self.lora is None else self.lora.describe(),
        }

    def restore(self, settings: dict[str, Any]) -> None:
        """Loads the weights as they were before training; ValueError where the checkpoint started from others."""
        self._take(*self._load(None))
        refuse_contradictions(self.settings(), settings, "encoder")

    def _load(self, texts: Iterable[str] | None) -> tuple[nn.Module, Any]:
        from transformers import AutoModel, AutoProcessor

        chosen: dict[str, Any] = {"trust_remote_code": False}
        if self.revision is not None:
            chosen["revision"] = self.revision
        try:
            processor = AutoProcessor.from_pretrained(self.name, backend="pil", **chosen)
            model = AutoModel.from_pretrained(self.name, dtype=getattr(torch, self.dtype), use_safetensors=True, **chosen)
        except OSError as error:
            raise ValueError(
                f"dual encoder {self.name!r} cannot be loaded: {error}. Give a folder with config.json, "
                "safetensors weights and the processor's files, or a hub name that is in the cache or can be downloaded"
            ) from error
        for method in ("get_image_features", "get_text_features"):
            if not hasattr(model, method):
                raise ValueError(f"{self.name!r} is a {type(model).__name__}, no dual encoder: it lacks {method}")
        return model.to(self._device()), processor

    def _device(self) -> str:
        if self.device_name == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self.device_name
