"""What differs between model families: where their towers are, and how their image inputs are laid out.

One row a family, keyed by `model_type` of the Hugging Face configuration. Pixtral is `llava` there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Family:
    """The traits of one model family.

    Attributes:
        language, vision, projectors: names of the modules that hold the language tower, the vision tower, and what joins
            them, as they occur in dotted parameter names.
        image_layout: what the first axis of the image inputs counts: `image` (all images of the batch in a row), `patch`
            (all patches of all images, with ``image_grid_thw``), or `prompt` (a padded list of images a prompt).
        multimodal_rope: positions have three axes and come from ``get_rope_index``.
        token_types: name of the model argument that marks image tokens with 1, or None.
        shared_prefill: tested to give the same scores when several answers continue one cached prompt.
        answer_tree: tested to give the same scores from one tree of all answers behind a prompt, and from image features that
            are computed once and handed over.
        steering: tested with attention steering (steering.py): its answers and logits are those of full attention.
        unread: modules whose output the forward pass never reads. They are not trained: distributed training refuses
            parameters without a gradient.
    """

    language: str
    vision: str
    projectors: tuple[str, ...]
    image_layout: Literal["image", "patch", "prompt"] = "image"
    multimodal_rope: bool = False
    token_types: str | None = None
    shared_prefill: bool = False
    answer_tree: bool = False
    steering: bool = False
    unread: tuple[str, ...] = ()


_EVERY: dict[str, Any] = {"shared_prefill": True, "answer_tree": True, "steering": True}  # what a tested family can do
_QWEN = Family("language_model", "visual", ("merger",), "patch", multimodal_rope=True, **_EVERY)

FAMILIES: dict[str, Family] = {
    # LLaVA reads the hidden states before the vision tower's last norm.
    "llava": Family(
        "language_model",
        "vision_tower",
        ("multi_modal_projector",),
        **_EVERY,
        unread=("post_layernorm",),
    ),
    "idefics3": Family("text_model", "vision_model", ("connector",), "prompt", **_EVERY),
    "smolvlm": Family("text_model", "vision_model", ("connector",), "prompt", **_EVERY),
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": Family(
        "language_model",
        "visual",
        ("merger", "deepstack_merger_list"),
        "patch",
        multimodal_rope=True,
        **_EVERY,
    ),
    "mistral3": Family("language_model", "vision_tower", ("multi_modal_projector",), shared_prefill=True, steering=True),
    "gemma3": Family(
        "language_model",
        "vision_tower",
        ("multi_modal_projector",),
        token_types="token_type_ids",
        shared_prefill=True,
        steering=True,
    ),
}


def never_read(config: Any, family: Family, parameter: str) -> bool:
    """Whether the forward pass ignores what the named parameter makes: `unread` modules, and vision layers that come
    after the one whose output is taken (``vision_feature_layer: -2`` in LLaVA 1.5)."""
    parts = parameter.split(".")
    if family.vision in parts and set(parts) & set(family.unread):
        return True
    taken = getattr(config, "vision_feature_layer", None)
    place = re.search(rf"(?:^|\.){family.vision}\..*\blayers\.(\d+)\.", parameter)
    if place is None or not isinstance(taken, int) or taken >= 0:
        return False
    depth = int(config.vision_config.num_hidden_layers)
    return int(place[1]) > depth + taken


def family_of(model_type: str) -> Family:
    """The traits of `model_type`; ValueError lists the known ones."""
    if model_type not in FAMILIES:
        raise ValueError(
            f"model_type {model_type!r} is not a known reader family; known: {', '.join(sorted(FAMILIES))}. "
            "Add a row to medrag_lightning/models/families.py, and its tests"
        )
    return FAMILIES[model_type]
