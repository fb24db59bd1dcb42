"""Attention steering: MR-RAG's IFA and its kin (`Steering`), and knockout, as one mechanism for every reader family tested.

In chosen decoder layers the rows of the question (or of the last prompt token) are computed again with changed logits and put
in place of the stock kernel's (attention_rows.py). Prompts say themselves how they are to be read: `EncodedPrompts.steering`,
with their `roles`. Without it, and where strength is 0, the model runs as if this file were not there.

Which rows and columns a policy joins:

    most policies                                      question (or all from the question on: `rows`) -> evidence
    pai                                                last prompt token -> query image
    knockout                                           as its direction says

`steer_generated` adds the rows of answer tokens, scored or generated (PAI as published). Every source token must stand before
the first target token, else attention could not flow and steering would be silently nothing: such prompts are refused.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from medrag_lightning.batches import EncodedPrompts, Role, Steering, TokenRoles
from medrag_lightning.models.attention_rows import ARGUMENT, NAME, MassRecorder, Plan, row_block
from medrag_lightning.models.families import FAMILIES, Family
from medrag_lightning.models.steering_policies import centred, document_strength

logger = logging.getLogger(__name__)

EVIDENCE = (Role.EVIDENCE_IMAGE, Role.EVIDENCE_TEXT)
_LANGUAGE: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


@contextmanager
def steered(
    model: Any,
    family: Family,
    prompts: EncodedPrompts,
    factor_L: Tensor | None = None,
    recorder: MassRecorder | None = None,
) -> Iterator[None]:
    """Within it, forward passes of `model` over `prompts` (whole, or in chunks behind a cache; repeated by beams) are steered.

    Args:
        model: a Hugging Face image-text-to-text model.
        family: its traits.
        prompts: what is read; nothing happens where they ask for no steering and nobody records.
        factor_L: trained factor of each decoder layer, for policy `learned`.
        recorder: told the attention of the question's tokens in every layer.

    Raises:
        ValueError: no roles, an order in which attention cannot flow, an unknown layer or head, an untested family or kernel.
    """
    if prompts.steering is None and recorder is None:
        yield
        return
    plan = plan_of(prompts, layer_count(model), factor_L, recorder)
    heads = int(model.config.get_text_config().num_attention_heads)
    if plan.heads is not None and max(plan.heads) >= heads:
        raise ValueError(f"steering.heads names head {max(plan.heads)}; the reader's layers have {heads}, numbered from 0")
    _install(model, family)
    if not plan.does_something:
        yield
        return
    entrance = functools.partial(_with_rows, plan, layer_count(model))
    hook = _language_tower(model, family).register_forward_pre_hook(entrance, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def layer_count(model: Any) -> int:
    """Decoder layers of a Hugging Face image-text-to-text model."""
    return int(model.config.get_text_config().num_hidden_layers)


def plan_of(
    prompts: EncodedPrompts, layers: int, factor_L: Tensor | None = None, recorder: MassRecorder | None = None
) -> Plan:
    """What `prompts.steering` means for the tokens of these prompts, in a reader of `layers` decoder layers."""
    roles, steering = prompts.roles, prompts.steering
    if roles is None:
        raise ValueError("steering and attention mass need to know which token is what: encode the prompts with roles=True")
    question_PT = _having(roles, Role.QUESTION)
    nothing_PT = torch.zeros_like(question_PT)
    if steering is None:
        nowhere: frozenset[int] = frozenset()
        return Plan("paper", 0.0, None, nowhere, nothing_PT, None, nothing_PT.float(), nothing_PT, None, question_PT, recorder)
    chosen = _layers(steering, layers)
    asks_alone = steering.rows == "question" and not steering.steer_generated
    if chosen == {layers - 1} and steering.policy not in ("pai", "knockout") and asks_alone:
        _warn_of_last_layer()
    target_PT, source_PT = _ends(steering, roles, prompts.mask_PT)
    _check_order(steering, roles, source_PT, target_PT)
    weight_PT, source_PT, acts_P = _columns(steering, roles, source_PT)
    heads = None if steering.heads is None else tuple(steering.heads)
    factor_L = _factor(steering, factor_L)
    after_P = acts_P if steering.steer_generated else None
    return Plan(
        steering.policy, steering.gain, heads, chosen, target_PT & acts_P[:, None], after_P, weight_PT, source_PT, factor_L,
        nothing_PT if recorder is None else question_PT, recorder,
    )  # fmt: skip


def _with_rows(
    plan: Plan, layers: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """At the language tower's entrance: the rows of this pass, handed down to every layer."""
    read = kwargs["input_ids"] if kwargs.get("inputs_embeds") is None else kwargs["inputs_embeds"]
    times, rest = divmod(read.shape[0], len(plan.target_PT))
    assert rest == 0, f"{read.shape[0]} sequences of {len(plan.target_PT)} steered prompts"
    return args, {**kwargs, ARGUMENT: row_block(plan.repeated(times), read.shape[1], kwargs.get("past_key_values"), layers)}


def _layers(steering: Steering, count: int) -> frozenset[int]:
    if steering.layers == "all":
        return frozenset(range(count))
    if steering.layers == "critical":
        raise ValueError("steering.layers critical stands for numbers that stage critical_layers finds; give those")
    if max(steering.layers) >= count:
        raise ValueError(f"steering.layers names layer {max(steering.layers)}; the reader has {count}, numbered from 0")
    return frozenset(steering.layers)


def _factor(steering: Steering, factor_L: Tensor | None) -> Tensor | None:
    if steering.policy != "learned":
        return None
    if factor_L is None:
        raise ValueError("steering.policy learned needs a reader with trained factors: set the reader's learned_steering: true")
    return factor_L


def _ends(steering: Steering, roles: TokenRoles, mask_PT: Tensor) -> tuple[Tensor, Tensor]:
    """bool (P, T): the rows that are steered and the columns they are steered to (or kept from)."""
    question_PT, evidence_PT = _having(roles, Role.QUESTION), _having(roles, *EVIDENCE)
    image_PT = _having(roles, Role.QUERY_IMAGE)
    last_PT = (mask_PT.cumsum(1) == mask_PT.sum(1, keepdim=True)) & (mask_PT > 0)
    if steering.policy == "pai":
        return last_PT, image_PT
    if steering.rows == "question_to_end":
        return (question_PT.cumsum(1) > 0) & (mask_PT > 0), evidence_PT
    if steering.policy != "knockout" or steering.direction == "evidence_to_question":
        return question_PT, evidence_PT
    if steering.direction == "image_to_question":
        return question_PT, image_PT
    return last_PT, evidence_PT if steering.direction == "evidence_to_last" else question_PT


def _columns(steering: Steering, roles: TokenRoles, source_PT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What logits are weighted with in each column, the columns that `steered_logits` calls source, and in which prompts
    anything changes."""
    none_PT = torch.zeros(source_PT.shape, device=source_PT.device)
    if steering.policy == "knockout":
        return none_PT, source_PT, source_PT.any(1)
    if steering.policy == "pai":
        return steering.gain * source_PT, source_PT, source_PT.any(1) & (steering.gain > 0)
    score_PK, shown_PK = _shown_scores(roles)
    if steering.policy == "pasta":
        best_PK = shown_PK & (score_PK == score_PK.masked_fill(~shown_PK, -torch.inf).amax(1, keepdim=True))
        return none_PT, _of_documents(roles, best_PK), shown_PK.any(1) & (steering.gain < 1)
    strength_PK = document_strength(score_PK, shown_PK)
    equal_P = shown_PK.any(1) & ~(strength_PK > 0).any(1)
    if bool(equal_P.any()):
        _warn_of_equal_scores()
    if steering.policy == "centred":
        strength_PK = centred(strength_PK, shown_PK)
    weight_PT = steering.gain * _of_documents(roles, strength_PK)
    return weight_PT, source_PT, (weight_PT != 0).any(1)


def _shown_scores(roles: TokenRoles) -> tuple[Tensor, Tensor]:
    """Scores (P, K) of the candidates, and which of them have a token in the prompt."""
    count = roles.strength_PK.shape[1]
    if (most := int(roles.document_PT.max())) >= count:
        raise ValueError(f"a token belongs to candidate {most} (from 0), but there are strengths of {count} candidates")
    if count == 0:
        none_P1 = roles.strength_PK.new_zeros(len(roles.strength_PK), 1)
        return none_P1, none_P1.bool()
    number_K = torch.arange(count, device=roles.document_PT.device)
    shown_PK = (roles.document_PT[:, :, None] == number_K).any(1)
    if bool((shown_PK & ~roles.strength_PK.isfinite()).any()):
        prompt, candidate = (shown_PK & ~roles.strength_PK.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"candidate {candidate} of prompt {prompt} has no finite retrieval score, which steering goes by; "
            "give its `strengths` to the prompt"
        )
    return roles.strength_PK.masked_fill(~shown_PK, 0.0), shown_PK


def _of_documents(roles: TokenRoles, value_PK: Tensor) -> Tensor:
    """Each token's document's value, (P, T); 0 for other tokens."""
    owned_PT = roles.document_PT >= 0
    value_PT = value_PK.gather(1, roles.document_PT.long().clamp_min(0))
    return value_PT.masked_fill(~owned_PT, 0)


def _having(roles: TokenRoles, *chosen: Role) -> Tensor:
    places = torch.tensor([list(Role).index(role) for role in chosen], device=roles.role_PT.device)
    return (roles.role_PT[:, :, None] == places).any(-1)


def _check_order(steering: Steering, roles: TokenRoles, source_PT: Tensor, target_PT: Tensor) -> None:
    """Refuses prompts without a target, and those in which a source token stands behind one."""
    what = steering.direction.replace("_to_", " -> ") if steering.policy == "knockout" else "evidence -> question"
    if not bool(target_PT.any(1).all()):
        prompt = int((~target_PT.any(1)).nonzero()[0])
        raise ValueError(f"prompt {prompt} has no question token, so steering {steering.policy} ({what}) would do nothing")
    first_P1 = target_PT.int().argmax(1, keepdim=True)
    behind_P = (source_PT & (torch.arange(source_PT.shape[1], device=source_PT.device) > first_P1)).any(1)
    if bool(behind_P.any()):
        raise ValueError(
            f"in prompt {int(behind_P.nonzero()[0])} attention cannot flow {what}: a token looks back only, and the question "
            f"does not stand behind all it is to look at, so steering {steering.policy} would be silently ignored; "
            "use a prompt with order evidence_first"
        )


@functools.cache
def _warn_of_equal_scores() -> None:
    logger.warning(
        "steering has no effect on a prompt with one candidate, or with candidates of equal score: lambda = (score - min) / "
        "(max - min) is 0 / 0 there, and taken as 0"
    )


@functools.cache
def _warn_of_last_layer() -> None:
    logger.warning(
        "the last layer alone is steered: what its question tokens gather reaches no later token, so no answer changes; "
        "add earlier layers, or set steer_generated"
    )


def _install(model: Any, family: Family) -> None:
    """Puts our attention function into the language tower, once; without a block it is the stock kernel."""
    text = model.config.get_text_config()
    if text._attn_implementation == NAME:
        return
    if not family.steering:
        tested = ", ".join(sorted(name for name, known in FAMILIES.items() if known.steering))
        raise ValueError(f"attention steering is not tested for family {model.config.model_type}; tested: {tested}")
    if text._attn_implementation != "sdpa":
        raise ValueError(
            f"attention steering runs on top of sdpa, and the reader has attn_implementation {text._attn_implementation!r}; "
            "set it to sdpa (which uses a flash kernel where it can)"
        )
    model.set_attn_implementation({"text_config": NAME})


def _language_tower(model: nn.Module, family: Family) -> nn.Module:
    if model not in _LANGUAGE:
        _LANGUAGE[model] = next(m for name, m in model.named_modules() if name.rsplit(".", 1)[-1] == family.language)
    return _LANGUAGE[model]
