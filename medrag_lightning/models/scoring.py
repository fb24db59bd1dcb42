"""The exact scorer: log p(answer | prompt) in nats, teacher-forced, only the answers' positions through the LM head.

Prompts are left-padded and answers right-padded, so the L positions that predict an answer are the same for every row.
Positions are given explicitly, so padding never changes a score. Two modes compute the same numbers:

- ``rows``: each row is its prompt and its answer in one sequence. Differentiable; one vision pass a row.
- ``prefill``: each prompt runs once into a key-value cache, copied for its answers: one vision pass a prompt.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medrag_lightning.batches import AnswerRows, EncodedPrompts
from medrag_lightning.models.families import Family
from medrag_lightning.models.window import last_layer_window

ScoringMode = Literal["rows", "prefill"]


def token_logp(
    model: nn.Module, family: Family, prompts: EncodedPrompts, rows: AnswerRows, mode: ScoringMode = "rows"
) -> Tensor:
    """Log-probability in nats of every answer token given its prompt and the answer tokens before it.

    Args:
        model: a Hugging Face image-text-to-text model (without an adapter's wrapper around it).
        family: its traits.
        prompts: P prompts.
        rows: R answers.
        mode: `rows` or `prefill`; the latter needs a family with `shared_prefill` and gives no gradient.

    Returns:
        float32 (R, L); 0 on padding.
    """
    _check(prompts, rows)
    if mode == "rows":
        return _by_rows(model, family, prompts, rows)
    if not family.shared_prefill:
        raise ValueError("mode 'prefill' is not proven exact for this reader family; use mode 'rows'")
    with torch.no_grad():
        return _by_prefill(model, family, prompts, rows)


def model_inputs(model: nn.Module, family: Family, prompts: EncodedPrompts) -> dict[str, Any]:
    """Everything but positions that the model's forward or `generate` takes for `prompts`."""
    inputs: dict[str, Any] = {"input_ids": prompts.ids_PT, "attention_mask": prompts.mask_PT, **prompts.vision}
    types_name = "mm_token_type_ids" if family.multimodal_rope else family.token_types
    if types_name is not None:
        inputs[types_name] = (prompts.ids_PT == image_token_id(model)).long()
    return inputs


def image_token_id(model: nn.Module) -> int:
    """Id of the token that image features replace."""
    config: Any = model.config
    return int(config.image_token_id)


def positions(model: Any, family: Family, prompts: EncodedPrompts) -> Tensor:
    """Position of every prompt token, counted from the first real one: (P, T), or (3, P, T) for multimodal RoPE."""
    if family.multimodal_rope:
        types_PT = (prompts.ids_PT == image_token_id(model)).long()
        place_3PT: Tensor = model.model.get_rope_index(
            prompts.ids_PT,
            mm_token_type_ids=types_PT,
            image_grid_thw=prompts.vision.get("image_grid_thw"),
            attention_mask=prompts.mask_PT,
        )[0]
        return place_3PT
    return (prompts.mask_PT.cumsum(-1) - 1).clamp_min(0)


def select_prompts(family: Family, prompts: EncodedPrompts, index: list[int]) -> EncodedPrompts:
    """The prompts numbered `index`, in that order and as often as named, with their images."""
    if index == list(range(len(prompts.ids_PT))):
        return prompts
    chosen = torch.tensor(index, device=prompts.ids_PT.device)
    counts = prompts.images_of_prompt
    vision = dict(prompts.vision)
    if vision and family.image_layout == "prompt":
        vision = {name: value[chosen] for name, value in vision.items()}
    elif vision:
        ends = torch.tensor(counts).cumsum(0).tolist()
        images = [i for p in index for i in range(ends[p] - counts[p], ends[p])]
        vision = {n: v[_places(prompts, n, images, family).to(v.device)] for n, v in vision.items()} if images else {}
    taken = tuple(counts[p] for p in index) if counts else ()
    ids_PT, mask_PT = prompts.ids_PT[chosen], prompts.mask_PT[chosen]
    return replace(prompts, ids_PT=ids_PT, mask_PT=mask_PT, vision=vision, images_of_prompt=taken)


def _places(prompts: EncodedPrompts, name: str, images: list[int], family: Family) -> Tensor:
    if family.image_layout == "patch" and name == "pixel_values":
        patches = prompts.vision["image_grid_thw"].prod(-1).cpu()
        starts = patches.cumsum(0) - patches
        return torch.cat([torch.arange(int(starts[i]), int(starts[i] + patches[i])) for i in images])
    return torch.tensor(images)


def _by_rows(model: nn.Module, family: Family, prompts: EncodedPrompts, rows: AnswerRows) -> Tensor:
    prompts = select_prompts(family, prompts, rows.prompt_of_row_R.tolist())
    length, width = prompts.ids_PT.shape[1], rows.ids_RL.shape[1]
    inputs = model_inputs(model, family, prompts)
    place = positions(model, family, prompts)
    fed_RL = rows.ids_RL[:, :-1]  # the last answer token predicts nothing that is scored
    inputs["input_ids"] = torch.cat([prompts.ids_PT, fed_RL], 1)
    inputs["attention_mask"] = torch.cat([prompts.mask_PT, rows.mask_RL[:, :-1].to(prompts.mask_PT.dtype)], 1)
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in inputs:
            inputs[name] = torch.cat([inputs[name], torch.zeros_like(fed_RL)], 1)
    inputs["position_ids"] = torch.cat([place, _continued(place, width - 1)], -1)
    keep = torch.arange(length - 1, length + width - 1, device=prompts.ids_PT.device)
    with last_layer_window(model, family, width):
        logits_RLV = model(**inputs, use_cache=False, logits_to_keep=keep).logits
    return _gathered(logits_RLV, rows.ids_RL, rows.mask_RL)


def _by_prefill(model: nn.Module, family: Family, prompts: EncodedPrompts, rows: AnswerRows) -> Tensor:
    place = positions(model, family, prompts)
    inputs = model_inputs(model, family, prompts)
    first = model(**inputs, position_ids=place, use_cache=True, logits_to_keep=1)
    first_R1 = _gathered(first.logits[rows.prompt_of_row_R], rows.ids_RL[:, :1], rows.mask_RL[:, :1])
    width = rows.ids_RL.shape[1]
    if width == 1:
        return first_R1
    cache = first.past_key_values
    cache.batch_select_indices(rows.prompt_of_row_R)
    answer_mask = rows.mask_RL[:, :-1].to(prompts.mask_PT.dtype)
    rest = model(
        input_ids=rows.ids_RL[:, :-1],
        attention_mask=torch.cat([prompts.mask_PT[rows.prompt_of_row_R], answer_mask], 1),
        position_ids=_continued(place[..., rows.prompt_of_row_R, :], width - 1),
        past_key_values=cache,
        use_cache=True,
    )
    return torch.cat([first_R1, _gathered(rest.logits, rows.ids_RL[:, 1:], rows.mask_RL[:, 1:])], 1)


def _continued(place: Tensor, count: int) -> Tensor:
    """The next `count` positions after the last token (a text token) of every prompt."""
    return place[..., -1:] + 1 + torch.arange(count, device=place.device)


def _gathered(logits_RLV: Tensor, ids_RL: Tensor, mask_RL: Tensor) -> Tensor:
    logits_RLV = logits_RLV.float()
    logp_RL = logits_RLV.gather(-1, ids_RL.unsqueeze(-1)).squeeze(-1) - logits_RLV.logsumexp(-1)
    return logp_RL.masked_fill(~mask_RL, 0.0)


def _check(prompts: EncodedPrompts, rows: AnswerRows) -> None:
    if not bool(prompts.mask_PT[:, -1].all()):
        raise ValueError("prompts must be left-padded: a prompt ends in padding")
    if not bool(rows.mask_RL[:, 0].all()):
        raise ValueError("answers must be right-padded and not empty: a row starts with padding")
