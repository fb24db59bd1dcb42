"""The two towers of a CLIP- or SigLIP-like model of transformers, behind `interfaces.DualEncoder`."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn import functional

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.models.embedding import embed, plain, weights_sha256
from medrag_lightning.models.families import Family
from medrag_lightning.models.lora import LoraSettings, inject_adapter, train_adapter_only

FIXED_LENGTH_FAMILIES = frozenset({"siglip", "siglip2"})  # trained on texts padded to full length, without a mask
TOWERS = Family("text_model", "vision_model", ("visual_projection", "text_projection", "head"))  # SigLIP's heads pool
NOT_IMAGE = ("text_model", "text_projection", "logit_scale", "logit_bias")
Freeze = Literal["all", "nothing", "vision", "text", "all_but_projection"]
"""What is not trained: everything, nothing, one tower with its projection, or everything below the projections (CLIP: the two
linear maps into the joint space; SigLIP: the pooling head and the text head)."""


class HfTowers(nn.Module):
    """Base of the encoders that hold a model and a processor of transformers; a subclass says in `_load` which.

    Args:
        batch_size: images or texts in one forward pass of `embed_images` and `embed_texts`.
        image_size_px: side of the square that images are brought to, with interpolated position embeddings; null for
            the model's own.
        max_text_tokens: shorter cut of texts than the model's context; null for the context.
        freeze: what is not trained.
        lora: low-rank updates of the towers, trained in place of the weights; `language` is the text tower.
    """

    def __init__(
        self, batch_size: int, image_size_px: int | None, max_text_tokens: int | None, freeze: Freeze, lora: LoraSettings | None
    ) -> None:
        super().__init__()
        counts = {"batch_size": batch_size, "image_size_px": image_size_px, "max_text_tokens": max_text_tokens}
        for setting, value in counts.items():
            if value is not None and value < 1:
                raise ValueError(f"{setting} must be at least 1, got {value}")
        if lora is not None and freeze != "all":
            raise ValueError(f"freeze={freeze!r} would be ignored: with lora only the updates are trained; leave one out")
        self.batch_size, self.image_size_px, self.max_text_tokens = batch_size, image_size_px, max_text_tokens
        self.freeze, self.lora = freeze, lora
        self.model: nn.Module | None = None
        self._processor: Any = None
        self._base_sha256: str | None = None

    def _load(self, texts: Iterable[str] | None) -> tuple[nn.Module, Any]:
        """A model and a processor, before training; `texts` is None where only an old run is continued or applied."""
        raise NotImplementedError

    def prepare(self, texts: Iterable[str]) -> None:
        """Loads or builds the weights, once."""
        if self.model is None:
            self._take(*self._load(texts))

    @property
    def dim(self) -> int:
        """Width D of the vectors; loads the model."""
        model, _ = self._loaded()
        text = getattr(model.config.text_config, "projection_size", None)  # SigLIP
        return int(text or model.config.projection_dim)

    @property
    def shared_space(self) -> bool:
        """True: both towers are trained into one space."""
        return True

    def embed_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """(B, D) unit vectors of RGB images."""
        return embed(self, images, self.batch_size, self.image_inputs, self.image_vectors, self.dim)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(B, D) unit vectors."""
        return embed(self, texts, self.batch_size, self.text_inputs, self.text_vectors, self.dim)

    def image_inputs(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """`pixel_values` (B, 3, height, width)."""
        pictures = self._loaded()[1].image_processor
        made = pictures(images=[i.convert("RGB") for i in images], return_tensors="pt", **self._image_size(pictures))
        return {"pixel_values": made["pixel_values"]}

    def text_inputs(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`input_ids` (B, T), and `attention_mask` where the family has one; texts beyond the limit are cut."""
        model, processor = self._loaded()
        fixed = model.config.model_type in FIXED_LENGTH_FAMILIES
        made = processor.tokenizer(
            list(texts),
            padding="max_length" if fixed else "longest",
            padding_side="right",
            truncation=True,
            max_length=self._text_limit(),
            return_tensors="pt",
        )
        wanted = ("input_ids",) if fixed else ("input_ids", "attention_mask")
        return {key: made[key] for key in wanted if key in made}

    def image_vectors(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """float32 (B, D) unit vectors; differentiable."""
        model, _ = self._loaded()
        return _image_vectors(model, inputs, self.image_size_px is not None)

    def text_vectors(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """float32 (B, D) unit vectors; differentiable."""
        model, _ = self._loaded()
        device = next(model.parameters()).device
        return _unit(model.get_text_features(**{key: value.to(device) for key, value in inputs.items()}))

    def image_tower(self) -> nn.Module:
        """A float32 copy of vision tower and projection, all of it trainable."""
        return ImageTower(self._loaded()[0], self.image_size_px is not None)

    def describe(self) -> dict[str, str]:
        """sha256 of weights and of the transform."""
        model, processor = self._loaded()
        words = json.loads(processor.tokenizer.backend_tokenizer.to_str())
        for changing in ("truncation", "padding"):  # state of the last call, not a setting
            words.pop(changing, None)
        limits = [self.image_size_px, self._text_limit()]
        transform = fingerprint(plain(processor.image_processor.to_dict()), words, limits)
        return {"name": type(self).__name__, "weights": weights_sha256(model), "transform": transform}

    def fingerprint(self) -> str:
        """sha256 over weights and transform; the same weights under another name have the same."""
        parts = self.describe()
        return fingerprint(parts["weights"], parts["transform"])

    def train(self, mode: bool = True) -> HfTowers:
        """Training mode for what is trained; frozen parts stay in evaluation mode, so that their dropout stays off."""
        super().train(mode)
        if self.model is not None and self.lora is not None:
            train_adapter_only(self.model, mode)
        elif self.model is not None:
            for part in self.model.children():
                part.train(mode and any(p.requires_grad for p in part.parameters()))
        return self

    def base_sha256(self) -> str:
        """sha256 of the weights before training, which a checkpoint that holds trained weights only relies on."""
        if self._base_sha256 is None:
            self._base_sha256 = weights_sha256(self._loaded()[0])
        return self._base_sha256

    def _loaded(self) -> tuple[Any, Any]:
        if self.model is None:
            self._take(*self._load(None))
        return self.model, self._processor

    def _take(self, model: nn.Module, processor: Any) -> None:
        self.model, self._processor, self._base_sha256 = model.eval().requires_grad_(False), processor, None
        if self.lora is not None:
            inject_adapter(model, TOWERS, self.lora)
        elif self.freeze != "all":
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(_trains(name, self.freeze))
        if any(parameter.requires_grad for parameter in model.parameters()):
            self.base_sha256()  # now, before they move
        self.train(self.training)

    def _text_limit(self) -> int:
        model, processor = self._loaded()
        context = min(int(model.config.text_config.max_position_embeddings), int(processor.tokenizer.model_max_length))
        if self.max_text_tokens is not None and self.max_text_tokens > context:
            raise ValueError(f"max_text_tokens={self.max_text_tokens} exceeds the context of the model, {context} tokens")
        return context if self.max_text_tokens is None else self.max_text_tokens

    def _image_size(self, image_processor: Any) -> dict[str, dict[str, int]]:
        if self.image_size_px is None:
            return {}
        own = {key: dict(getattr(image_processor, key, None) or {}) for key in ("size", "crop_size")}
        return {key: {s: self.image_size_px for s in value if value[s]} for key, value in own.items() if value}


class ImageTower(nn.Module):
    """A copy of the image side of a dual encoder: `pixel_values` to float32 (B, D) unit vectors."""

    def __init__(self, model: nn.Module, resized: bool) -> None:
        super().__init__()
        shell = copy.copy(model)  # what does not belong to the image side is dropped before anything is copied
        shell._modules = {name: part for name, part in model._modules.items() if name not in NOT_IMAGE}
        shell._parameters = {name: part for name, part in model._parameters.items() if name not in NOT_IMAGE}
        self.model = copy.deepcopy(shell).float().requires_grad_(True)
        self.resized = resized

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, D) unit vectors."""
        return _image_vectors(self.model, inputs, self.resized)


def _image_vectors(model: Any, inputs: Mapping[str, Tensor], resized: bool) -> Tensor:
    weight = next(model.vision_model.parameters())
    options = {"interpolate_pos_encoding": True} if resized else {}
    return _unit(model.get_image_features(inputs["pixel_values"].to(weight.device, weight.dtype), **options))


def _unit(features: Any) -> Tensor:
    pooled = features if isinstance(features, Tensor) else features.pooler_output
    return functional.normalize(pooled.float(), dim=-1)


def _trains(name: str, freeze: Freeze) -> bool:
    """Whether the weight `name` of a dual encoder is trained; temperature and bias belong to the stage."""
    if name.startswith(("logit_scale", "logit_bias")):
        return False
    projects = name.startswith(("visual_projection", "text_projection", "vision_model.head", "text_model.head"))
    vision = name.startswith(("vision_model", "visual_projection"))
    return {"nothing": True, "vision": not vision, "text": vision, "all_but_projection": projects, "all": False}[freeze]
