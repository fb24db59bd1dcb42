"""Any CLIP- or SigLIP-like dual encoder of the Hugging Face hub, behind `interfaces.Retriever`.

`transformers` is imported when the weights are first needed, not with this module.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn import functional

from medrag_lightning.artifacts import fingerprint

FIXED_LENGTH_FAMILIES = frozenset({"siglip", "siglip2"})  # trained on texts padded to full length, without a mask
DType = Literal["float32", "float16", "bfloat16"]


class HfDualEncoder(nn.Module):
    """Images and texts to unit vectors in one space, by a pretrained dual encoder.

    Weights are read as safetensors only, code on the hub is never run. Texts longer than the model's context are cut,
    as these models were trained (JOMED cuts captions at 256 tokens). It is a frozen torch module: inside a Lightning
    module it moves to the trainer's device.

    Args:
        name: hub name, or a folder that holds the model and its processor.
        revision: branch, tag or commit on the hub.
        dtype: of the weights and of the computation; vectors are float32 always.
        device: where the weights go when they are loaded; ``auto``: the GPU if there is one.
        batch_size: images or texts in one forward pass.
        image_size_px: side of the square that images are brought to, with interpolated position embeddings; null for
            the model's own.
        max_text_tokens: shorter cut of texts than the model's context; null for the context.
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
    ) -> None:
        super().__init__()
        counts = {"batch_size": batch_size, "image_size_px": image_size_px, "max_text_tokens": max_text_tokens}
        for setting, value in counts.items():
            if value is not None and value < 1:
                raise ValueError(f"{setting} must be at least 1, got {value}")
        if revision is not None and Path(name).is_dir():
            raise ValueError(f"revision={revision!r} would be ignored: {name!r} is a folder; leave it out")
        self.name, self.revision, self.dtype, self.device_name = name, revision, dtype, device
        self.batch_size, self.image_size_px, self.max_text_tokens = batch_size, image_size_px, max_text_tokens
        self.model: nn.Module | None = None
        self._processor: Any = None

    @property
    def dim(self) -> int:
        """Width D of the vectors; loads the model."""
        return int(self.embed_texts(["a"]).shape[1])

    @property
    def shared_space(self) -> bool:
        """True: both towers were trained into one space."""
        return True

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """(B, D) unit vectors of RGB images."""
        model, processor = self._loaded()
        size = self._image_size(processor.image_processor)
        vectors = []
        for start in range(0, len(images), self.batch_size):
            batch = [image.convert("RGB") for image in images[start : start + self.batch_size]]
            inputs = processor.image_processor(images=batch, return_tensors="pt", **size)
            options = {"interpolate_pos_encoding": True} if size else {}
            vectors.append(self._unit(model.get_image_features(**self._moved(inputs), **options)))
        return np.concatenate(vectors) if vectors else np.zeros((0, self.dim), np.float32)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(B, D) unit vectors."""
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        model, processor = self._loaded()
        fixed = model.config.model_type in FIXED_LENGTH_FAMILIES
        vectors = []
        for start in range(0, len(texts), self.batch_size):
            inputs = processor.tokenizer(
                list(texts[start : start + self.batch_size]),
                padding="max_length" if fixed else "longest",
                padding_side="right",
                truncation=True,
                max_length=self._text_limit(),
                return_tensors="pt",
            )
            wanted = ("input_ids",) if fixed else ("input_ids", "attention_mask")
            kept = {key: inputs[key] for key in wanted if key in inputs}
            vectors.append(self._unit(model.get_text_features(**self._moved(kept))))
        return np.concatenate(vectors)

    def describe(self) -> dict[str, str]:
        """Name (of a folder: its last part), weights and transform; the latter two are sha256."""
        model, processor = self._loaded()
        # One hash a tensor, in order of name: large models are never copied whole.
        tensors = sorted(model.state_dict().items())
        weights = [(key, str(value.dtype), fingerprint(_bytes(value))) for key, value in tensors]
        pictures = processor.image_processor.to_dict()
        words = json.loads(processor.tokenizer.backend_tokenizer.to_str())
        for changing in ("truncation", "padding"):  # state of the last call, not a setting
            words.pop(changing, None)
        limits = [self.image_size_px, self._text_limit()]
        return {
            "name": Path(self.name).name if Path(self.name).is_dir() else self.name,
            "weights": fingerprint(weights),
            "transform": fingerprint(_plain(pictures), words, limits),
        }

    def fingerprint(self) -> str:
        """sha256 over weights and transform; a folder's copy under another name has the same."""
        parts = self.describe()
        return fingerprint(parts["weights"], parts["transform"])

    def _loaded(self) -> tuple[Any, Any]:
        if self.model is None:
            from transformers import AutoModel, AutoProcessor

            chosen: dict[str, Any] = {"trust_remote_code": False}
            if self.revision is not None:
                chosen["revision"] = self.revision
            try:
                processor = AutoProcessor.from_pretrained(self.name, backend="pil", **chosen)
                model = AutoModel.from_pretrained(
                    self.name, dtype=getattr(torch, self.dtype), use_safetensors=True, **chosen
                )
            except OSError as error:
                raise ValueError(
                    f"dual encoder {self.name!r} cannot be loaded: {error}. Give a folder with config.json, "
                    "safetensors weights and the processor's files, or a hub name that is in the cache or can be downloaded"
                ) from error
            for method in ("get_image_features", "get_text_features"):
                if not hasattr(model, method):
                    raise ValueError(f"{self.name!r} is a {type(model).__name__}, no dual encoder: it lacks {method}")
            self._processor = processor
            self.model = model.eval().requires_grad_(False).to(self._device())
        return self.model, self._processor

    def _device(self) -> str:
        if self.device_name == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self.device_name

    def _moved(self, inputs: Any) -> dict[str, Tensor]:
        weight = next(self.parameters())
        return {
            key: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
            for key, value in inputs.items()
        }

    def _unit(self, features: Any) -> NDArray[np.float32]:
        pooled = features if isinstance(features, Tensor) else features.pooler_output
        vectors: NDArray[np.float32] = functional.normalize(pooled.float(), dim=-1).cpu().numpy()
        return vectors

    def _text_limit(self) -> int:
        model, processor = self._loaded()
        context = min(int(model.config.text_config.max_position_embeddings), int(processor.tokenizer.model_max_length))
        if self.max_text_tokens is not None and self.max_text_tokens > context:
            raise ValueError(f"max_text_tokens={self.max_text_tokens} exceeds the context of {self.name!r}, {context}")
        return context if self.max_text_tokens is None else self.max_text_tokens

    def _image_size(self, image_processor: Any) -> dict[str, dict[str, int]]:
        if self.image_size_px is None:
            return {}
        own = {key: dict(getattr(image_processor, key, None) or {}) for key in ("size", "crop_size")}
        return {key: {s: self.image_size_px for s in value if value[s]} for key, value in own.items() if value}


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _plain(value: Any) -> Any:
    """Settings as JSON-able values; enumerations and size objects by their text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
