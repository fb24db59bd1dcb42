"""Prompts whose token roles are put by hand, and the whole attention computed plainly in float64 to compare with."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from reader_world import prompts, reader
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from medrag_lightning.batches import EncodedPrompts, Role, Steering, TokenRoles
from medrag_lightning.models.hf_reader import HfReader

CUTS = (0.08, 0.25, 0.4, 0.55, 0.7, 0.9)  # documents 0, 1, 2, query image, question: as shares of a prompt's tokens
SCORES = ((0.9, 0.2, 0.5), (0.1, 0.4, 0.3), (0.0, 1.0, -2.0), (3.0, 2.0, 5.0), (0.3, 0.1, 0.2))
PLACE = {role: number for number, role in enumerate(Role)}
STEERINGS = {
    "paper": Steering("paper", [0, 1], gain=1.5),
    "one layer": Steering("paper", [0]),
    "centred": Steering("centred", "all"),
    "mass_preserving": Steering("mass_preserving", "all", gain=2.0),
    "document_prior": Steering("document_prior", "all", gain=3.0),
    "learned": Steering("learned", "all"),
    "pai": Steering("pai", "all", gain=0.7),
    "pasta": Steering("pasta", "all", gain=0.1, heads=[1]),
    "knockout": Steering("knockout", "all"),
    "knockout image": Steering("knockout", "all", direction="image_to_question"),
    "knockout last": Steering("knockout", "all", direction="evidence_to_last"),
    "knockout question": Steering("knockout", "all", direction="question_to_last"),
    "to the end": Steering("paper", "all", rows="question_to_end"),
    "to the end, mass": Steering("mass_preserving", [0], gain=2.0, rows="question_to_end"),
    "generated": Steering("paper", "all", steer_generated=True),
    "pai generated": Steering("pai", [0], gain=0.7, steer_generated=True),
}
FACTOR_L = (1.7, 0.4)


def by_hand(prompts: EncodedPrompts) -> TokenRoles:
    """Roles at the same shares of every prompt, whatever its tokens are: steering knows no texts."""
    role_PT = torch.full(prompts.ids_PT.shape, -1, dtype=torch.int8)
    document_PT = torch.full(prompts.ids_PT.shape, -1, dtype=torch.int16)
    for p, mask_T in enumerate(prompts.mask_PT):
        real = mask_T.nonzero().squeeze(1)
        bounds = [int(cut * len(real)) for cut in CUTS]
        for k in range(3):
            role_PT[p, real[bounds[k] : bounds[k + 1]]] = PLACE[Role.EVIDENCE_TEXT]
            document_PT[p, real[bounds[k] : bounds[k + 1]]] = k
        role_PT[p, real[bounds[3] : bounds[4]]] = PLACE[Role.QUERY_IMAGE]
        role_PT[p, real[bounds[4] : bounds[5]]] = PLACE[Role.QUESTION]
    return TokenRoles(role_PT, document_PT, torch.tensor(SCORES[: len(prompts.ids_PT)]))


def world(family: str, steering: Steering | None, **settings: Any) -> tuple[HfReader, EncodedPrompts]:
    """A tiny reader and five prompts of different length, left-padded."""
    made = reader(family, **settings)
    encoded = made.processor.encode_prompts(prompts())
    return made, replace(encoded, roles=by_hand(encoded), steering=steering)


@dataclass
class Told:
    """What the reference is told of the one prompt it reads, and what it saw: weights (H, T, T) of each layer."""

    steering: Steering | None
    role_T: list[int]
    document_T: list[int]
    score_K: list[float]
    seen: list[Tensor]


TOLD: list[Told] = []


def _row(told: Told, layer: int, i: int, columns: list[int], logits_HS: Tensor) -> Tensor:
    """Weights of row i over the columns it sees: the formulas of the policies, one row at a time."""
    steering, last = told.steering, len(told.role_T) - 1
    plain_HS = logits_HS.softmax(-1)
    if steering is None or (steering.layers != "all" and layer not in steering.layers):
        return plain_HS
    role = [told.role_T[j] if j <= last else -1 for j in columns]
    document = [told.document_T[j] if j <= last else -1 for j in columns]
    to_last = steering.policy == "pai" or steering.direction.endswith("last")
    is_target = i == last if to_last else i <= last and told.role_T[i] == PLACE[Role.QUESTION]
    if steering.rows == "question_to_end":
        is_target = told.role_T.index(PLACE[Role.QUESTION]) <= i <= last
    if not (is_target or (i > last and steering.steer_generated)):
        return plain_HS
    low, high = min(told.score_K), max(told.score_K)
    strength = [(s - low) / (high - low) for s in told.score_K]
    mean = sum(strength) / len(strength)
    factor = FACTOR_L[layer] if steering.policy == "learned" else 1.0
    made_HS = logits_HS.clone()
    for j in range(len(role)):
        k = document[j]
        if steering.policy in ("paper", "learned", "mass_preserving") and k >= 0:
            made_HS[:, j] += factor * steering.gain * strength[k] * logits_HS[:, j].abs()
        if steering.policy == "document_prior" and k >= 0:
            made_HS[:, j] += steering.gain * strength[k]
        if steering.policy == "centred" and k >= 0:
            made_HS[:, j] += steering.gain * (strength[k] - mean) * logits_HS[:, j].abs()
        if steering.policy == "pai" and role[j] == PLACE[Role.QUERY_IMAGE]:
            made_HS[:, j] += steering.gain * logits_HS[:, j].abs()
        if steering.policy == "pasta" and (k < 0 or told.score_K[k] < high):
            chosen = range(len(logits_HS)) if steering.heads is None else steering.heads
            made_HS[list(chosen), j] += torch.tensor(steering.gain).log()
        source = {"evidence": k >= 0, "image": role[j] == PLACE[Role.QUERY_IMAGE], "question": role[j] == PLACE[Role.QUESTION]}
        if steering.policy == "knockout" and columns[j] != i and source[steering.direction.split("_")[0]]:
            made_HS[:, j] = -torch.inf
    weights_HS = made_HS.softmax(-1)
    if steering.policy in ("mass_preserving", "document_prior"):
        inside = torch.tensor([k >= 0 for k in document])
        shared_HS = made_HS[:, inside].softmax(-1) * plain_HS[:, inside].sum(-1, keepdim=True)
        weights_HS = plain_HS.clone()
        weights_HS[:, inside] = shared_HS
    return weights_HS


def _reference(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float, **kwargs: Any) -> Any:
    told = TOLD[-1]
    key, value = (x.repeat_interleave(module.num_key_value_groups, 1) for x in (key, value))
    logits_HTT = (query @ key.transpose(2, 3) * scaling)[0]
    weights_HTT = torch.zeros_like(logits_HTT)
    for i, hidden_T in enumerate(mask[0, 0] < -1):
        columns = (~hidden_T).nonzero().squeeze(1).tolist()
        weights_HTT[:, i, columns] = _row(told, module.layer_idx, i, columns, logits_HTT[:, i, columns])
    told.seen.append(weights_HTT)
    return (weights_HTT[None] @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register("plain_reference", _reference)
AttentionMaskInterface.register("plain_reference", eager_mask)


def reference_logits(made: HfReader, prompts: EncodedPrompts, p: int, answer: list[int]) -> tuple[Tensor, Told]:
    """float64 logits (T + L, V) of prompt `p` and an answer behind it: no padding, no cache, the whole attention."""
    from medrag_lightning.models import scoring

    assert prompts.roles is not None
    core = copy.deepcopy(made.core).double()
    core.set_attn_implementation({"text_config": "plain_reference"})
    one = scoring.select_prompts(made.family, prompts, [p])
    real = one.mask_PT[0].bool()
    role_T, document_T = (of_PT[p][real].tolist() for of_PT in (prompts.roles.role_PT, prompts.roles.document_PT))
    told = Told(prompts.steering, role_T, document_T, prompts.roles.strength_PK[p].tolist(), [])
    TOLD.append(told)
    vision = {name: v.double() if v.is_floating_point() else v for name, v in one.vision.items()}
    short = replace(one, ids_PT=one.ids_PT[:, real], mask_PT=one.mask_PT[:, real], vision=vision, roles=None)
    inputs = scoring.model_inputs(core, made.family, short)
    for name in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"):
        if name in inputs:
            more = torch.tensor([answer]) if name == "input_ids" else torch.ones(1, len(answer)) * (name == "attention_mask")
            inputs[name] = torch.cat([inputs[name], more.to(inputs[name].dtype)], 1)
    with torch.no_grad():
        return core(**inputs, use_cache=False).logits[0], told
