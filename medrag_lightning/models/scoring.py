"""The exact scorer: log p(answer | prompt) in nats, teacher-forced, only the answers' positions through the LM head.

Prompts are left-padded and answers right-padded, so the L positions that predict an answer are the same for every row.
Positions are given explicitly, so padding never changes a score. Four modes compute the same numbers:

- ``rows``: each row is its prompt and its answer in one sequence. Differentiable; one vision pass a row.
- ``prefill``: each prompt runs once into a key-value cache, copied for its answers: one vision pass a prompt.
- ``tree``: as `prefill`, and each image, each shared start of prompts and of answers once (tree_scoring.py).
- ``packed``: differentiable; each image and each shared start of the prompts of a pack once (packed_scoring.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medrag_lightning.batches import AnswerRows, EncodedPrompts
from medrag_lightning.models.families import Family
from medrag_lightning.models.packed_scoring import by_packs
from medrag_lightning.models.steering import steered
from medrag_lightning.models.tree_scoring import by_tree, chunks, supports_tree, tokens_per_pass
from medrag_lightning.models.vision_cache import Features, encoder_output, select_images
from medrag_lightning.models.window import last_layer_window

ScoringMode = Literal["rows", "prefill", "tree", "packed"]


def token_logp(
    model: nn.Module,
    family: Family,
    prompts: EncodedPrompts,
    rows: AnswerRows,
    mode: ScoringMode = "rows",
    features: Sequence[Features] | None = None,
    factor_L: Tensor | None = None,
) -> Tensor:
    """Log-probability in nats of every answer token given its prompt and the answer tokens before it.

    Args:
        model: a Hugging Face image-text-to-text model (without an adapter's wrapper around it).
        family: its traits.
        prompts: P prompts.
        rows: R answers.
        mode: `rows`; or, without a gradient, `prefill`, which needs a family with `shared_prefill`, or `tree`, which needs
            one with `answer_tree`; or `packed`, which needs the same and prompts with `pack_of_prompt`.
        features: of every image in ``prompts.vision``, in order. Needed for prompts that share images, and in the modes `tree`
            and `packed`.
        factor_L: of each decoder layer, for prompts whose steering is `learned` (steering.py).

    Returns:
        float32 (R, L); 0 on padding.
    """
    _check(prompts, rows, features, mode)
    if mode == "rows":
        return _by_rows(model, family, prompts, rows, features, factor_L)
    if mode in ("tree", "packed"):
        if features is None or not supports_tree(model, family):
            raise ValueError(f"mode {mode!r} needs image features, and a reader family and attention it is proven exact for")
        return (by_tree if mode == "tree" else by_packs)(model, family, prompts, features, rows)
    if not family.shared_prefill:
        raise ValueError("mode 'prefill' is not proven exact for this reader family; use mode 'rows'")
    return _by_prefills(model, family, prompts, rows, features, factor_L)


def model_inputs(
    model: nn.Module, family: Family, prompts: EncodedPrompts, features: Sequence[Features] | None = None
) -> dict[str, Any]:
    """Everything but positions that the model's forward or `generate` takes for `prompts`; with `features`, no pixels."""
    inputs: dict[str, Any] = {"input_ids": prompts.ids_PT, "attention_mask": prompts.mask_PT}
    if features is None:
        inputs |= prompts.vision
    elif images := image_order(prompts):
        inputs["mm_encoder_outputs"] = {"image": encoder_output([features[i] for i in images])}
        if "image_grid_thw" in prompts.vision:
            inputs["image_grid_thw"] = prompts.vision["image_grid_thw"][images]
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
        grid = prompts.vision.get("image_grid_thw")
        place_3PT: Tensor = model.model.get_rope_index(
            prompts.ids_PT,
            mm_token_type_ids=types_PT,
            image_grid_thw=grid[image_order(prompts)] if grid is not None and prompts.image_places else grid,
            attention_mask=prompts.mask_PT,
        )[0]
        return place_3PT
    return (prompts.mask_PT.cumsum(-1) - 1).clamp_min(0)


def image_order(prompts: EncodedPrompts) -> list[int]:
    """For every image of every prompt, in reading order, its number in ``prompts.vision``."""
    if prompts.image_places:
        return [i for row in prompts.image_places for i in row]
    return list(range(sum(prompts.images_of_prompt)))


def unshared(family: Family, prompts: EncodedPrompts) -> EncodedPrompts:
    """The same prompts with an image's inputs once for each time it is shown, as the stock model wants them."""
    if not prompts.image_places:
        return prompts
    if family.image_layout == "prompt":
        raise ValueError("images that are laid out by prompt cannot be repeated; encode with share_images=False")
    vision = select_images(family, prompts.vision, image_order(prompts))
    return replace(prompts, vision=vision, image_places=(), image_keys=())


def select_prompts(family: Family, prompts: EncodedPrompts, index: list[int]) -> EncodedPrompts:
    """The prompts numbered `index`, in that order and as often as named, with their images."""
    if index == list(range(len(prompts.ids_PT))):
        return prompts
    chosen = torch.tensor(index, device=prompts.ids_PT.device)
    counts = prompts.images_of_prompt
    vision, places = dict(prompts.vision), prompts.image_places
    if places:
        places = tuple(places[p] for p in index)
    elif vision and family.image_layout == "prompt":
        vision = {name: value[chosen] for name, value in vision.items()}
    elif vision:
        ends = torch.tensor(counts).cumsum(0).tolist()
        images = [i for p in index for i in range(ends[p] - counts[p], ends[p])]
        vision = select_images(family, vision, images)
    taken = tuple(counts[p] for p in index) if counts else ()
    packs = tuple(prompts.pack_of_prompt[p] for p in index) if prompts.pack_of_prompt else ()
    ids_PT, mask_PT = prompts.ids_PT[chosen], prompts.mask_PT[chosen]
    roles = None if prompts.roles is None else prompts.roles.of_prompts(chosen)
    kept = replace(prompts, ids_PT=ids_PT, mask_PT=mask_PT, roles=roles)
    return replace(kept, vision=vision, images_of_prompt=taken, image_places=places, pack_of_prompt=packs)


def _by_rows(
    model: nn.Module,
    family: Family,
    prompts: EncodedPrompts,
    rows: AnswerRows,
    features: Sequence[Features] | None,
    factor_L: Tensor | None,
) -> Tensor:
    prompts = select_prompts(family, prompts, rows.prompt_of_row_R.tolist())
    length, width = prompts.ids_PT.shape[1], rows.ids_RL.shape[1]
    inputs = model_inputs(model, family, prompts, features)
    place = positions(model, family, prompts)
    fed_RL = rows.ids_RL[:, :-1]  # the last answer token predicts nothing that is scored
    inputs["input_ids"] = torch.cat([prompts.ids_PT, fed_RL], 1)
    inputs["attention_mask"] = torch.cat([prompts.mask_PT, rows.mask_RL[:, :-1].to(prompts.mask_PT.dtype)], 1)
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in inputs:
            inputs[name] = torch.cat([inputs[name], torch.zeros_like(fed_RL)], 1)
    inputs["position_ids"] = torch.cat([place, _continued(place, width - 1)], -1)
    keep = torch.arange(length - 1, length + width - 1, device=prompts.ids_PT.device)
    with last_layer_window(model, family, width), steered(model, family, prompts, factor_L):
        logits_RLV = model(**inputs, use_cache=False, logits_to_keep=keep).logits
    return _gathered(logits_RLV, rows.ids_RL, rows.mask_RL)


def _by_prefills(
    model: nn.Module,
    family: Family,
    prompts: EncodedPrompts,
    rows: AnswerRows,
    features: Sequence[Features] | None,
    factor_L: Tensor | None,
) -> Tensor:
    logp_RL = torch.zeros(rows.ids_RL.shape, device=rows.ids_RL.device)
    with torch.no_grad():
        for index in _asked_by_length(prompts, rows):
            chosen = torch.tensor(index, device=rows.ids_RL.device)
            of_part = torch.isin(rows.prompt_of_row_R, chosen).nonzero().squeeze(1)
            number = torch.zeros(len(prompts.ids_PT), dtype=torch.long, device=chosen.device)
            number[chosen] = torch.arange(len(index), device=chosen.device)
            part = AnswerRows(rows.ids_RL[of_part], rows.mask_RL[of_part], number[rows.prompt_of_row_R[of_part]])
            chosen_prompts = _trimmed(select_prompts(family, prompts, index))
            logp_RL[of_part] = _by_prefill(model, family, chosen_prompts, part, features, factor_L)
    return logp_RL


def _asked_by_length(prompts: EncodedPrompts, rows: AnswerRows) -> list[list[int]]:
    """The prompts that have answers, in groups of similar length."""
    asked = sorted(set(rows.prompt_of_row_R.tolist()))
    length_P = prompts.mask_PT.sum(1).tolist()
    return [[asked[i] for i in group] for group in chunks([length_P[p] for p in asked], tokens_per_pass(prompts))]


def _trimmed(prompts: EncodedPrompts) -> EncodedPrompts:
    """Without the columns that are padding in every prompt."""
    width = int(prompts.mask_PT.sum(1).max())
    roles = None if prompts.roles is None else prompts.roles.last_columns(width)
    return replace(prompts, ids_PT=prompts.ids_PT[:, -width:], mask_PT=prompts.mask_PT[:, -width:], roles=roles)


def _by_prefill(
    model: nn.Module,
    family: Family,
    prompts: EncodedPrompts,
    rows: AnswerRows,
    features: Sequence[Features] | None,
    factor_L: Tensor | None,
) -> Tensor:
    place = positions(model, family, prompts)
    inputs = model_inputs(model, family, prompts, features)
    with steered(model, family, prompts, factor_L):
        first = model(**inputs, position_ids=place, use_cache=True, logits_to_keep=1)
    first_R1 = _gathered(first.logits[rows.prompt_of_row_R], rows.ids_RL[:, :1], rows.mask_RL[:, :1])
    width = rows.ids_RL.shape[1]
    if width == 1:
        return first_R1
    cache = first.past_key_values
    cache.batch_select_indices(rows.prompt_of_row_R)
    answer_mask = rows.mask_RL[:, :-1].to(prompts.mask_PT.dtype)
    of_rows = select_prompts(family, replace(prompts, vision={}, image_places=()), rows.prompt_of_row_R.tolist())
    with steered(model, family, of_rows, factor_L):
        rest = model(
            input_ids=rows.ids_RL[:, :-1],
            attention_mask=torch.cat([of_rows.mask_PT, answer_mask], 1),
            position_ids=_continued(place[..., rows.prompt_of_row_R, :], width - 1),
            past_key_values=cache,
            use_cache=True,
        )
    return torch.cat([first_R1, _gathered(rest.logits, rows.ids_RL[:, 1:], rows.mask_RL[:, 1:])], 1)


def _continued(place: Tensor, count: int) -> Tensor:
    """The next `count` positions after the last token (a text token) of every prompt."""
    return place[..., -1:] + 1 + torch.arange(count, device=place.device)


def _gathered(logits_RLV: Tensor, ids_RL: Tensor, mask_RL: Tensor) -> Tensor:
    logits_RLV = logits_RLV if logits_RLV.dtype == torch.float64 else logits_RLV.float()
    logp_RL = logits_RLV.gather(-1, ids_RL.unsqueeze(-1)).squeeze(-1) - logits_RLV.logsumexp(-1)
    return logp_RL.masked_fill(~mask_RL, 0.0)


def _check(prompts: EncodedPrompts, rows: AnswerRows, features: Sequence[Features] | None, mode: ScoringMode) -> None:
    if prompts.steering is not None and mode in ("tree", "packed"):
        raise ValueError(f"mode {mode!r} moves prompts' tokens, which steering goes by; use mode 'prefill' or 'rows'")
    if mode == "packed" and len(prompts.pack_of_prompt) != len(prompts.ids_PT):
        raise ValueError(f"{len(prompts.pack_of_prompt)} packs are named for {len(prompts.ids_PT)} prompts; set pack_of_prompt")
    if prompts.image_places and features is None:
        raise ValueError("prompts that share images need the features of those images")
    if not bool(prompts.mask_PT[:, -1].all()):
        raise ValueError("prompts must be left-padded: a prompt ends in padding")
    if not bool(rows.mask_RL[:, 0].all()):
        raise ValueError("answers must be right-padded and not empty: a row starts with padding")
