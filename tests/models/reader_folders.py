"""Folders as `save_pretrained` writes them, of families that the tiny backbone does not build: random weights, no download."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from reader_world import TEXTS, tiny

from medrag_lightning.models.image_only import ImageOnlyProcessor
from medrag_lightning.models.tiny import train_tokenizer

SIDE, PATCH = 32, 8
CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] | trim }}{% endif %}{% endfor %}END\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def tokenizer(extra: dict[str, str], image: str, end: str = "</s>") -> transformers.PreTrainedTokenizerFast:
    """A byte-level tokenizer that knows the special tokens `extra`, and a template that writes the begin token itself."""
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(TEXTS, 330, tuple(extra.values())),
        additional_special_tokens=list(extra.values()),
        extra_special_tokens=extra,
        **names,
    )
    made.chat_template = CHAT.replace("IMAGE", image).replace("END", end)
    return made


def text_config(kind: Any, tok: Any, **more: Any) -> Any:
    return kind(
        vocab_size=len(tok), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, pad_token_id=tok.pad_token_id, eos_token_id=tok.eos_token_id,
        bos_token_id=tok.bos_token_id, **more,
    )  # fmt: skip


def vision_settings(**more: Any) -> dict[str, Any]:
    base = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {**base, "image_size": SIDE, "patch_size": PATCH, **more}


def gemma3(folder: Path) -> None:
    extra = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tok = tokenizer({**extra, "end_token": "<end_of_turn>"}, "<start_of_image>", "<end_of_turn>")
    config = transformers.Gemma3Config(
        text_config=text_config(transformers.Gemma3TextConfig, tok, sliding_window=16),
        vision_config=vision_settings(vision_use_head=False),
        mm_tokens_per_image=4,
        boi_token_index=tok.boi_token_id,
        eoi_token_index=tok.eoi_token_id,
        image_token_index=tok.image_token_id,
    )
    images = transformers.Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    processor = transformers.Gemma3Processor(images, tok, chat_template=tok.chat_template, image_seq_length=4)
    save(folder, transformers.Gemma3ForConditionalGeneration(config), processor)


def pixtral(folder: Path, mistral3: bool = False) -> None:
    extra = {"image_token": "[IMG]", "break_token": "[IMG_BREAK]", "end_token": "[IMG_END]"}
    tok = tokenizer(extra, "[IMG]")
    vision = vision_settings(model_type="pixtral", head_dim=8)
    text = text_config(transformers.MistralConfig, tok)
    image_id = tok.convert_tokens_to_ids("[IMG]")
    model: Any
    if mistral3:
        joint = transformers.Mistral3Config(
            vision_config=vision, text_config=text, image_token_index=image_id, spatial_merge_size=2
        )
        model = transformers.Mistral3ForConditionalGeneration(joint)
    else:
        llava = transformers.LlavaConfig(
            vision_config=vision, text_config=text, image_token_index=image_id,
            vision_feature_select_strategy="full", vision_feature_layer=-1,
        )  # fmt: skip
        model = transformers.LlavaForConditionalGeneration(llava)
    images = transformers.PixtralImageProcessorPil(size={"longest_edge": SIDE}, patch_size={"height": PATCH, "width": PATCH})
    save(folder, model, ImageOnlyProcessor(images, tok, image_token="[IMG]"))


def mistral3(folder: Path) -> None:
    pixtral(folder, mistral3=True)


def smolvlm(folder: Path) -> None:
    names = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    tok = tokenizer({name.strip("<>").replace("-", "_"): name for name in names}, "<image>", "<end_of_utterance>")
    config = transformers.SmolVLMConfig(
        vision_config=vision_settings(model_type="smolvlm_vision"),
        text_config=text_config(transformers.LlamaConfig, tok),
        image_token_id=tok.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tok.pad_token_id,
    )
    edge = {"longest_edge": SIDE}
    images = transformers.SmolVLMImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False)
    save(folder, transformers.SmolVLMForConditionalGeneration(config), ImageOnlyProcessor(images, tok, image_token="<image>"))


def of_tiny(family: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        loaded = tiny(family).load(TEXTS)
        save(folder, loaded.model, loaded.processor.processor)

    return make


def save(folder: Path, model: Any, processor: Any) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.15)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


FOLDERS: dict[str, Callable[[Path], None]] = {
    "llava": of_tiny("llava"),
    "qwen2_vl": of_tiny("qwen2_vl"),
    "qwen2_5_vl": of_tiny("qwen2_5_vl"),
    "qwen3_vl": of_tiny("qwen3_vl"),
    "idefics3": of_tiny("idefics3"),
    "smolvlm": smolvlm,
    "pixtral": pixtral,
    "mistral3": mistral3,
    "gemma3": gemma3,
}
