"""A CLIP or SigLIP of a few hundred thousand weights, from a seed, with a tokenizer of its own: no download."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn

from medrag_lightning.models.embedding import refuse_contradictions
from medrag_lightning.models.hf_towers import Freeze, HfTowers

ClipFamily = Literal["clip", "siglip"]
HEADS = 4


class TinyClip(HfTowers):
    """A real CLIP or SigLIP with random weights and a byte-level BPE tokenizer trained on the corpus; all of it trains.

    Weights depend only on these settings and on the size of the vocabulary that the texts give.

    Args:
        family: the architecture.
        hidden, layers: width (a multiple of 4) and depth of both towers; 4 attention heads.
        dim: width D of the vectors; with `siglip` it is `hidden`.
        image_side_px, patch_px: input size, and size of one image token's square.
        max_text_tokens: texts are cut here.
        vocabulary: largest number of tokens, at least 300.
        dropout: of the attention weights, in training.
        seed: of the weights.
        batch_size: images or texts in one forward pass of `embed_images` and `embed_texts`.
        freeze: what a stage does not train.
    """

    def __init__(
        self,
        family: ClipFamily = "clip",
        hidden: int = 96,
        layers: int = 3,
        dim: int | None = None,
        image_side_px: int = 64,
        patch_px: int = 8,
        max_text_tokens: int = 64,
        vocabulary: int = 1024,
        dropout: float = 0.0,
        seed: int = 0,
        batch_size: int = 64,
        freeze: Freeze = "nothing",
    ) -> None:
        super().__init__(batch_size, None, max_text_tokens, freeze, None)
        if hidden % HEADS or image_side_px % patch_px or vocabulary < 300 or not 0 <= dropout < 1:
            raise ValueError(
                "TinyClip needs hidden a multiple of 4, image_side_px a multiple of patch_px, vocabulary >= 300 and "
                f"0 <= dropout < 1, got {hidden}, {image_side_px} / {patch_px}, {vocabulary}, {dropout}"
            )
        if family == "siglip" and dim not in (None, hidden):
            raise ValueError(f"dim={dim} would be ignored: vectors of a siglip are as wide as hidden={hidden}; leave it out")
        self.shape: dict[str, Any] = {
            "family": family,
            "hidden": hidden,
            "layers": layers,
            "dim": hidden if dim is None else dim,
            "image_side_px": image_side_px,
            "patch_px": patch_px,
            "max_text_tokens": max_text_tokens,
            "vocabulary": vocabulary,
            "dropout": dropout,
            "seed": seed,
        }

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return int(self.shape["dim"])

    def settings(self) -> dict[str, Any]:
        """Shape, seed and tokenizer."""
        words = json.loads(self._loaded()[1].tokenizer.backend_tokenizer.to_str())
        words |= {"truncation": None, "padding": None}  # state of the last call, not a setting
        return {"kind": "tiny_clip", **self.shape, "freeze": self.freeze, "tokenizer": json.dumps(words, ensure_ascii=False)}

    def restore(self, settings: dict[str, Any]) -> None:
        """The weights of the seed with the checkpoint's tokenizer; ValueError where shape or seed differ."""
        mine = {"kind": "tiny_clip", **self.shape, "freeze": self.freeze}
        refuse_contradictions(mine, {k: v for k, v in settings.items() if k != "tokenizer"}, "encoder")
        from tokenizers import Tokenizer

        self._take(*self._build(Tokenizer.from_str(settings["tokenizer"])))

    def _load(self, texts: Iterable[str] | None) -> tuple[nn.Module, Any]:
        if texts is None:
            raise RuntimeError("TinyClip has no tokenizer yet: call prepare(texts), or wrap it in TrainedEncoder")
        from tokenizers import processors

        from medrag_lightning.models.tiny import train_tokenizer

        backend = train_tokenizer(texts, self.shape["vocabulary"])
        ends = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
        backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
        return self._build(backend)

    def _build(self, backend: Any) -> tuple[nn.Module, Any]:
        import transformers

        from medrag_lightning.models.tiny import wrap_tokenizer

        tokenizer, side = wrap_tokenizer(backend), {"height": self.shape["image_side_px"], "width": self.shape["image_side_px"]}
        tokenizer.model_max_length = self.shape["max_text_tokens"]
        vision, text = _tower_settings(self.shape, tokenizer)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.shape["seed"])
            if self.shape["family"] == "clip":
                config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=self.shape["dim"])
                model = transformers.CLIPModel(config)
                pictures = transformers.CLIPImageProcessorPil(size=side, do_center_crop=False)
                return model, transformers.CLIPProcessor(pictures, tokenizer)
            wide = text | {"projection_size": self.shape["dim"]}
            model = transformers.SiglipModel(transformers.SiglipConfig(text_config=wide, vision_config=vision))
            return model, transformers.SiglipProcessor(transformers.SiglipImageProcessorPil(size=side), tokenizer)


def _tower_settings(shape: dict[str, Any], tokenizer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    both = {
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["hidden"] * 3,
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": HEADS,
        "attention_dropout": shape["dropout"],
    }
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    text = both | ids | {"vocab_size": len(tokenizer), "max_position_embeddings": shape["max_text_tokens"]}
    return both | {"image_size": shape["image_side_px"], "patch_size": shape["patch_px"]}, text
