"""Where a reader's weights come from: a named model of the hub or of a folder (tiny.py has the random ones)."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError  # the name of torch's refusal; nothing is unpickled
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import transformers
from safetensors import SafetensorError

from medrag_lightning.models.families import Family, family_of
from medrag_lightning.models.hf_processor import HfProcessor
from medrag_lightning.models.image_only import ImageOnlyProcessor, PixtralImageOnlyProcessor
from medrag_lightning.models.tiny import Loaded, refuse_contradictions


@runtime_checkable
class Backbone(Protocol):
    """A recipe for a model and its processor; it holds no weights itself."""

    def load(self, texts: Iterable[str]) -> Loaded:
        """The model and its processor; `texts` is what a backbone without a tokenizer trains one on."""
        ...

    def describe(self, loaded: Loaded) -> dict[str, Any]:
        """What `reload` needs, as plain JSON."""
        ...

    def reload(self, description: dict[str, Any]) -> Loaded:
        """The model of a description; ValueError where it contradicts the recipe."""
        ...


class Pretrained:
    """Any `AutoModelForImageTextToText` of a known family (families.py), by hub name or folder.

    Args:
        name: hub name, or a folder written by `save_pretrained`. With HF_HUB_OFFLINE=1 the local cache must have it.
        dtype: of the frozen weights and of the computation; `auto` takes the checkpoint's. Trained weights are float32.
        quantization: `nf4` loads the language tower in 4 bits (QLoRA); it needs an adapter and the extra `gpu`.
        max_image_side_px: larger images are scaled down (JOMED: 256).
        attn_implementation: `sdpa`, `eager`, `flash_attention_2`, ...; None is the library's choice.
        revision: branch, tag or commit of the hub repository.
        trust_remote_code: run Python code from the hub repository. Off unless you set it; no preset needs it. `revision` must
            then be the whole commit: what is run is what was read.
    """

    def __init__(
        self,
        name: str,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        quantization: Literal["nf4"] | None = None,
        max_image_side_px: int = 256,
        attn_implementation: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if quantization is not None and importlib.util.find_spec("bitsandbytes") is None:
            raise ValueError(
                f"quantization {quantization!r} needs bitsandbytes, which is not installed; "
                "install the extra: pip install 'medrag-lightning[gpu]'"
            )
        if trust_remote_code and not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
            raise ValueError(
                f"trust_remote_code runs Python code from {name!r}; name the commit that you have read by revision, all 40 "
                f"digits of it (a branch or a tag may change), got revision {revision!r}"
            )
        self.name = name
        self.dtype = dtype
        self.quantization = quantization
        self.max_image_side_px = max_image_side_px
        self.attn_implementation = attn_implementation
        self.revision = revision
        self.trust_remote_code = trust_remote_code

    def load(self, texts: Iterable[str]) -> Loaded:
        """The pretrained model; `texts` is not read, since the model has its tokenizer."""
        source = {"revision": self.revision, "trust_remote_code": self.trust_remote_code}
        settings: dict[str, Any] = {"dtype": self.dtype, **source}
        if self.attn_implementation is not None:
            settings["attn_implementation"] = self.attn_implementation
        try:
            if self.quantization is not None:
                config = transformers.AutoConfig.from_pretrained(self.name, **source)
                settings["quantization_config"] = _nf4(self.dtype, family_of(config.model_type))
            processor = _load_processor(self.name, source, self.max_image_side_px)
            model = transformers.AutoModelForImageTextToText.from_pretrained(self.name, **settings)
        except (SafetensorError, UnpicklingError) as error:
            raise ValueError(
                f"reader {self.name!r}: its weights are damaged or no plain tensors ({type(error).__name__}); nothing was run"
            ) from error
        except OSError as error:
            raise ValueError(
                f"reader {self.name!r} cannot be loaded: {str(error).splitlines()[0]}. Give a folder, or a name that is in "
                "the local cache, or unset HF_HUB_OFFLINE to download it"
            ) from error
        return Loaded(model, HfProcessor(processor, self.max_image_side_px))

    def describe(self, loaded: Loaded) -> dict[str, Any]:
        """The settings that shape the weights and inputs, and the commit that was loaded."""
        return {**self._identity(), "commit": getattr(loaded.model.config, "_commit_hash", None)}

    def reload(self, description: dict[str, Any]) -> Loaded:
        """The model of a description; ValueError where settings or the commit differ."""
        refuse_contradictions(self._identity(), {k: v for k, v in description.items() if k != "commit"})
        loaded = self.load(())
        refuse_contradictions(self.describe(loaded), description)
        return loaded

    def _identity(self) -> dict[str, Any]:
        return {
            "kind": "pretrained",
            "name": self.name,
            "revision": self.revision,
            "dtype": self.dtype,
            "quantization": self.quantization,
            "max_image_side_px": self.max_image_side_px,
        }


def _nf4(dtype: str, family: Family) -> transformers.BitsAndBytesConfig:
    """QLoRA's settings (arXiv 2305.14314), for the language tower."""
    compute = torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=kept_from_quantization(family),
    )


def kept_from_quantization(family: Family) -> list[str]:
    """Patterns of the modules that keep their dtype: the small vision tower, what may be trained in full, the LM head."""
    return [*(rf"(?:.*\.)?{name}" for name in (family.vision, *family.projectors)), "lm_head"]


def _load_processor(name: str, source: dict[str, Any], max_image_side_px: int) -> Any:
    """The model's processor, with Pillow for the images on every machine, so that inputs are equal bit for bit.

    Families whose stock processor needs torchvision (which the project does without) get one for images only.
    """
    config = transformers.AutoConfig.from_pretrained(name, **source)
    vision = config.vision_config
    pixtral = vision.model_type == "pixtral"
    if config.model_type not in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm") and not pixtral:
        processor = transformers.AutoProcessor.from_pretrained(name, backend="pil", **source)
        if config.model_type == "idefics3":
            _one_tile(processor.image_processor, max_image_side_px)
        return processor
    images = transformers.AutoImageProcessor.from_pretrained(name, backend="pil", **source)
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, **source)
    template = tokenizer.chat_template or _template_file(name, source)
    if pixtral:
        patch_px = vision.patch_size * getattr(config, "spatial_merge_size", 1)
        return PixtralImageOnlyProcessor(images, tokenizer, patch_px, template)
    if config.model_type == "smolvlm":
        _one_tile(images, max_image_side_px)
        side = vision.image_size // vision.patch_size // config.scale_factor
        return transformers.Idefics3Processor(images, tokenizer, image_seq_len=side**2, chat_template=template)
    return ImageOnlyProcessor(images, tokenizer, template)


def _one_tile(image_processor: Any, max_image_side_px: int) -> None:
    """Keeps Idefics3 and SmolVLM from enlarging an image that fits one tile into a mosaic of up to 17 tiles."""
    if max_image_side_px <= image_processor.max_image_size["longest_edge"]:
        image_processor.do_image_splitting = False
        image_processor.size = dict(image_processor.max_image_size)


def _template_file(name: str, source: dict[str, Any]) -> str:
    """The chat template where it lies beside the tokenizer, as a Jinja file or in JSON."""
    import json

    from transformers.utils import cached_file

    for file in ("chat_template.jinja", "chat_template.json"):
        path = cached_file(name, file, revision=source["revision"], _raise_exceptions_for_missing_entries=False)
        if path is not None:
            text = Path(path).read_text(encoding="utf-8")
            return text if file.endswith(".jinja") else str(json.loads(text)["chat_template"])
    raise ValueError(f"reader {name!r} has no chat template; give an instruction-tuned model")
