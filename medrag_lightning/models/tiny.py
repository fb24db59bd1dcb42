"""Tiny readers of real families: random weights from a seed, no download; they train on a CPU in seconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from medrag_lightning.models.embedding import refuse_contradictions as refuse_contradictions
from medrag_lightning.models.hf_processor import HfProcessor
from medrag_lightning.models.image_only import ImageOnlyProcessor

TinyFamily = Literal["llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "idefics3"]

# <unk> stands at 2: CLIP text towers treat an end token with id 2 as the legacy case.
_SPECIAL = ("<pad>", "<s>", "<unk>", "</s>", "<|user|>", "<|assistant|>", "<|system|>")
_QWEN_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
_IMAGE_TOKENS = {
    "llava": ("<image>",),
    "idefics3": ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"),
}
# An answer starts with a space, as words inside a report do, so that a word has the same token in both places.
_CHAT = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% else %}"
    "{{ (' ' if m['role'] == 'assistant' else '') + c['text'] }}{% endif %}{% endfor %}"
    "{{ '</s>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


class Loaded(NamedTuple):
    """A model and its processor."""

    model: transformers.PreTrainedModel
    processor: HfProcessor


class TinyBackbone:
    """A reader of a real family with random weights and a byte-level BPE tokenizer trained on the texts it will read.

    Weights depend only on these settings and on the size of the vocabulary that the texts give.

    Args:
        family: the architecture.
        hidden, layers, heads: width, depth and attention heads of the language tower (half as many key-value heads).
        vision_hidden, vision_layers: width and depth of the vision tower (4 heads).
        image_side_px, patch_px: input size and size of one image token's square; Qwen families and Idefics3 merge 2x2
            (half-size) patches into one token.
        vocabulary: largest number of tokens, at least 300.
        dropout: of the attention weights of the language tower, in training.
        seed: of the weights.
    """

    def __init__(
        self,
        family: TinyFamily = "llava",
        hidden: int = 128,
        layers: int = 3,
        heads: int = 4,
        vision_hidden: int = 96,
        vision_layers: int = 2,
        image_side_px: int = 64,
        patch_px: int = 16,
        vocabulary: int = 1024,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        if family not in _BUILDERS:
            raise ValueError(f"family must be one of {', '.join(_BUILDERS)}, got {family!r}")
        if hidden % heads or (hidden // heads) % 2 or vision_hidden % 8:
            got = f"{hidden}, {heads}, {vision_hidden}"
            raise ValueError(f"hidden / heads must be an even number and vision_hidden a multiple of 8, got {got}")
        if family.startswith("qwen") and (hidden // heads) % 4:
            raise ValueError(f"hidden / heads must be a multiple of 4 for {family}, got {hidden} / {heads}")
        if image_side_px % patch_px or patch_px % 2 or image_side_px < 28:
            got = f"{image_side_px}, {patch_px}"
            raise ValueError(f"image_side_px must be at least 28 and a multiple of an even patch_px, got {got}")
        if vocabulary < 300:
            raise ValueError(f"vocabulary must be at least 300 (256 bytes and the special tokens), got {vocabulary}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        self.settings: dict[str, Any] = {
            "family": family,
            "hidden": hidden,
            "layers": layers,
            "heads": heads,
            "vision_hidden": vision_hidden,
            "vision_layers": vision_layers,
            "image_side_px": image_side_px,
            "patch_px": patch_px,
            "vocabulary": vocabulary,
            "dropout": dropout,
            "seed": seed,
        }

    def load(self, texts: Iterable[str]) -> Loaded:
        """A model whose tokenizer is trained on `texts`; the same texts and settings give the same model."""
        return self._build(train_tokenizer(texts, self.settings["vocabulary"], _image_tokens(self.settings["family"])))

    def describe(self, loaded: Loaded) -> dict[str, Any]:
        """The settings and the tokenizer."""
        tokenizer = loaded.processor.tokenizer.backend_tokenizer.to_str()
        return {"kind": "tiny", **self.settings, "tokenizer": tokenizer}

    def reload(self, description: dict[str, Any]) -> Loaded:
        """The model of a description, before training; ValueError where its settings are not these."""
        saved = {k: v for k, v in description.items() if k != "tokenizer"}
        refuse_contradictions({"kind": "tiny", **self.settings}, saved)
        return self._build(Tokenizer.from_str(description["tokenizer"]))

    def _build(self, backend: Tokenizer) -> Loaded:
        tokenizer = wrap_tokenizer(backend, _image_tokens(self.settings["family"]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings["seed"])
            config, model_class, processor = _BUILDERS[self.settings["family"]](self.settings, tokenizer)
            model = model_class(config)
        generation = model.generation_config
        generation.pad_token_id, generation.bos_token_id = tokenizer.pad_token_id, tokenizer.bos_token_id
        generation.eos_token_id = tokenizer.eos_token_id
        return Loaded(model, HfProcessor(processor, max_image_side_px=self.settings["image_side_px"]))


def _image_tokens(family: str) -> tuple[str, ...]:
    return _IMAGE_TOKENS.get(family, _QWEN_TOKENS)


def train_tokenizer(texts: Iterable[str], vocabulary: int, image_tokens: tuple[str, ...] = ()) -> Tokenizer:
    """A byte-level BPE tokenizer of at most `vocabulary` tokens; ids: <pad> 0, <s> 1, <unk> 2, </s> 3."""
    backend = Tokenizer(models.BPE(unk_token=None))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[*_SPECIAL, *image_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Each text also with a space before it: answers follow one, and a first word should have the token of a later one.
    backend.train_from_iterator((form for text in texts for form in (text, " " + text)), trainer)
    return backend


def wrap_tokenizer(backend: Tokenizer, image_tokens: tuple[str, ...] = ()) -> transformers.PreTrainedTokenizerFast:
    """The tokenizer as transformers knows it, its special tokens named."""
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=[*_SPECIAL[4:], *image_tokens],
    )


_Built = tuple[Any, Any, Any]


def _text_settings(s: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": s["hidden"],
        "intermediate_size": s["hidden"] * 3,
        "num_hidden_layers": s["layers"],
        "num_attention_heads": s["heads"],
        "num_key_value_heads": s["heads"] // 2 if s["heads"] % 2 == 0 else s["heads"],
        "head_dim": s["hidden"] // s["heads"],
        "max_position_embeddings": 4096,
        "attention_dropout": s["dropout"],
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _vision_settings(s: dict[str, Any]) -> dict[str, Any]:
    return {
        "hidden_size": s["vision_hidden"],
        "intermediate_size": s["vision_hidden"] * 3,
        "num_hidden_layers": s["vision_layers"],
        "num_attention_heads": 4,
        "image_size": s["image_side_px"],
    }


def _llava(s: dict[str, Any], tokenizer: Any) -> _Built:
    side, patch = s["image_side_px"], s["patch_px"]
    config = transformers.LlavaConfig(
        vision_config=transformers.SiglipVisionConfig(**_vision_settings(s), patch_size=patch, vision_use_head=False),
        text_config=transformers.Qwen2Config(**_text_settings(s, tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(side // patch) ** 2,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    processor = transformers.LlavaProcessor(
        image_processor=transformers.SiglipImageProcessorPil(size={"height": side, "width": side}),
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="full",
        image_token="<image>",
        num_additional_image_tokens=0,
        chat_template=_CHAT.replace("IMAGE", "<image>"),
    )
    return config, transformers.LlavaForConditionalGeneration, processor


def _idefics3(s: dict[str, Any], tokenizer: Any) -> _Built:
    side, patch = s["image_side_px"], s["patch_px"] // 2
    config = transformers.Idefics3Config(
        vision_config={**_vision_settings(s), "patch_size": patch},
        text_config=transformers.LlamaConfig(**_text_settings(s, tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    edge = {"longest_edge": side}
    images = transformers.Idefics3ImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False)
    processor = transformers.Idefics3Processor(
        image_processor=images,
        tokenizer=tokenizer,
        image_seq_len=(side // patch // 2) ** 2,
        chat_template=_CHAT.replace("IMAGE", "<image>"),
    )
    return config, transformers.Idefics3ForConditionalGeneration, processor


def _qwen(s: dict[str, Any], tokenizer: Any) -> _Built:
    side, patch, hidden, depth = s["image_side_px"], s["patch_px"] // 2, s["hidden"], s["vision_layers"]
    text = _text_settings(s, tokenizer)
    half = text["head_dim"] // 2
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [half - 2 * (half // 3), half // 3, half // 3],
    }
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    joint = {name: tokenizer.convert_tokens_to_ids(token) for name, token in zip(names, _QWEN_TOKENS, strict=True)}
    vision: dict[str, Any] = {"depth": depth, "num_heads": 4, "patch_size": patch, "spatial_merge_size": 2}
    wide = {"hidden_size": s["vision_hidden"], "out_hidden_size": hidden, "intermediate_size": s["vision_hidden"] * 3}
    if s["family"] == "qwen2_vl":
        vision |= {"embed_dim": s["vision_hidden"], "hidden_size": hidden, "mlp_ratio": 3}
        classes = (transformers.Qwen2VLConfig, transformers.Qwen2VLForConditionalGeneration)
    elif s["family"] == "qwen2_5_vl":
        vision |= wide | {"window_size": patch * 8, "fullatt_block_indexes": [depth - 1]}
        classes = (transformers.Qwen2_5_VLConfig, transformers.Qwen2_5_VLForConditionalGeneration)
    else:
        text["rope_parameters"]["mrope_interleaved"] = True
        vision |= wide | {"num_position_embeddings": (side // patch) ** 2, "deepstack_visual_indexes": [0, depth - 1]}
        classes = (transformers.Qwen3VLConfig, transformers.Qwen3VLForConditionalGeneration)
    if s["family"] != "qwen3_vl":
        del text["head_dim"]
    config = classes[0](text_config=text, vision_config=vision, tie_word_embeddings=True, **joint)
    area = side * side
    images = transformers.Qwen2VLImageProcessorPil(patch_size=patch, merge_size=2, min_pixels=area, max_pixels=area)
    template = _CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    return config, classes[1], ImageOnlyProcessor(images, tokenizer, template)


_BUILDERS = {"llava": _llava, "idefics3": _idefics3, "qwen2_vl": _qwen, "qwen2_5_vl": _qwen, "qwen3_vl": _qwen}
