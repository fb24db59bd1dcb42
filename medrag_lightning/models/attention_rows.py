"""Attention of which a few rows are changed: the stock kernel for all rows, those few computed again and put in their place.

A function under the name ``medrag_ifa`` in the attention interface of transformers, with the stock mask function under the same
name (without one there is no mask at all). A call without `RowBlock` is the stock kernel and nothing else. The rows of a block
cost R x S logits, not Q x S; every other row keeps the stock kernel's bits.

What to change comes down from the language tower's entrance as a keyword argument, so it is there again when gradient
checkpointing computes a layer a second time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import pad
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from medrag_lightning.batches import SteeringPolicy
from medrag_lightning.models.steering_policies import attention_weights, steered_logits

NAME = "medrag_ifa"  # "sdpa", "flash_attention" or "flex_attention" inside the name would be taken for those
ARGUMENT = "medrag_rows"


class MassRecorder(Protocol):
    """What is told the attention of the watched rows."""

    def record(self, layer: int, weights_BHRS: Tensor, watched_BR: Tensor) -> None:
        """Of one decoder layer, after steering."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to change in P prompts of T tokens, whatever part of them a forward pass reads.

    Attributes:
        policy, gain, heads, layers: as in `Steering`; no layers: nothing is steered.
        target_PT: bool, the rows that are steered.
        after_P: bool, whether all rows behind the prompt (answer tokens) are steered, too; None where they never are.
        weight_PT, source_PT: of the columns; see `steered_logits`.
        factor_L: for each decoder layer what `weight_PT` is multiplied with; None for 1.
        watched_PT: bool, the rows whose attention `recorder` is told, in all layers.
        recorder: None where nobody looks.
    """

    policy: SteeringPolicy
    gain: float
    heads: tuple[int, ...] | None
    layers: frozenset[int]
    target_PT: Tensor
    after_P: Tensor | None
    weight_PT: Tensor
    source_PT: Tensor
    factor_L: Tensor | None
    watched_PT: Tensor
    recorder: MassRecorder | None

    @property
    def does_something(self) -> bool:
        """Whether any row is steered or watched."""
        if self.recorder is not None:
            return True
        return bool(self.layers) and (bool(self.target_PT.any()) or (self.after_P is not None and bool(self.after_P.any())))

    def repeated(self, times: int) -> Plan:
        """Each prompt `times` times in a row, as generation by beams repeats them."""
        if times == 1:
            return self
        names = ("target_PT", "after_P", "weight_PT", "source_PT", "watched_PT")
        every: dict[str, Any] = {name: getattr(self, name) for name in names}
        return replace(self, **{name: t.repeat_interleave(times, 0) for name, t in every.items() if t is not None})


@dataclass(frozen=True, slots=True)
class RowBlock:
    """The rows of one forward pass that are steered or watched.

    Attributes:
        plan: for the same B prompts.
        row_BR: int64, where in this pass each row is; padded with other rows of the prompt.
        place_BR: int64, its column, counted from the first token of the sequence.
        steered_BR, watched_BR: bool; neither on padding.
        first_column: for each layer the column of the first key that its cache still has (sliding windows).
    """

    plan: Plan
    row_BR: Tensor
    place_BR: Tensor
    steered_BR: Tensor
    watched_BR: Tensor
    first_column: dict[int, int]


def row_block(plan: Plan, count: int, cache: Any, layer_count: int) -> RowBlock | None:
    """The block of a pass over `count` tokens that follow what is in `cache` (None: nothing); None if no row is in them."""
    offset = 0 if cache is None else int(cache.get_query_offset(0))
    width = plan.target_PT.shape[1]
    if offset >= width and plan.after_P is None:
        return None
    beyond = max(0, offset + count - width)
    target_PS = pad(plan.target_PT, (0, beyond), value=False)
    if plan.after_P is not None:
        target_PS[:, width:] = plan.after_P[:, None]
    steered_BQ = target_PS[:, offset : offset + count]
    watched_BQ = pad(plan.watched_PT, (0, beyond), value=False)[:, offset : offset + count]
    chosen_BQ = steered_BQ | watched_BQ
    most = int(chosen_BQ.sum(1).max())
    if most == 0:
        return None
    row_BR = chosen_BQ.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    steered_BR, watched_BR = steered_BQ.gather(1, row_BR), watched_BQ.gather(1, row_BR)
    first = {} if cache is None else {i: int(cache.get_mask_sizes(count, i)[1]) for i in range(layer_count)}
    return RowBlock(plan, row_BR, row_BR + offset, steered_BR, watched_BR, first)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    medrag_rows: RowBlock | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function of transformers: query (B, H, Q, D), key and value (B, H / groups, S, D) -> (B, Q, H, D)."""
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    block = medrag_rows
    if block is None or (block.plan.recorder is None and layer not in block.plan.layers):
        return out, None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast(query.device.type, enabled=False):
        made_BRHD = _rows(layer, block, query, key, value, attention_mask, scale, dropout if module.training else 0.0)
    if layer not in block.plan.layers:
        return out, None
    prompt_N, slot_N = block.steered_BR.nonzero(as_tuple=True)
    if torch.is_grad_enabled():
        out = out.clone()  # autograd may hold the kernel's own
    out[prompt_N, block.row_BR[prompt_N, slot_N]] = made_BRHD[prompt_N, slot_N].to(out.dtype)
    return out, None


def _rows(
    layer: int, block: RowBlock, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float
) -> Tensor:
    """Attention of the block's rows, (B, R, H, D), computed in float32 (float64 where the model is)."""
    exact = torch.promote_types(query.dtype, torch.float32)
    batch, heads, _, size = query.shape
    rows = block.row_BR.shape[1]
    at_BHRD = block.row_BR[:, None, :, None].expand(-1, heads, -1, size)
    groups = key.shape[1]  # the heads that share a key stand side by side, so their rows can be one matrix
    query_BGRD = (query.gather(2, at_BHRD).to(exact) * scale).reshape(batch, groups, -1, size)
    logits_BHRS = (query_BGRD @ key.to(exact).transpose(2, 3)).view(batch, heads, rows, -1)
    visible_BRS, bias_BRS = _visible(layer, block, mask, logits_BHRS)
    if layer in block.plan.layers:
        logits_BHRS, visible_BRS = _steered(layer, block, logits_BHRS, visible_BRS)
    if bias_BRS is not None:
        logits_BHRS = logits_BHRS + bias_BRS[:, None]
    weights_BHRS = attention_weights(logits_BHRS, visible_BRS)
    if block.plan.recorder is not None:
        block.plan.recorder.record(layer, weights_BHRS, block.watched_BR)
    weights_BHRS = drop(weights_BHRS, dropout, training=dropout > 0)
    made = weights_BHRS.view(batch, groups, -1, key.shape[2]) @ value.to(exact)
    return made.view(batch, heads, rows, -1).transpose(1, 2)


def _visible(layer: int, block: RowBlock, mask: Tensor | None, logits_BHRS: Tensor) -> tuple[Tensor, Tensor | None]:
    """Which columns each row sees, and what a float mask adds to them."""
    columns = logits_BHRS.shape[-1]
    if mask is None:  # then attention is causal, and nothing is padding
        column_S = torch.arange(columns, device=logits_BHRS.device) + block.first_column.get(layer, 0)
        return column_S <= block.place_BR[:, :, None], None
    if mask.shape[1] != 1:
        raise ValueError(f"steering takes one attention mask for all heads, got a mask of shape {tuple(mask.shape)}")
    mask_BQS = mask[:, 0, :, :columns].expand(len(block.row_BR), -1, -1)
    mask_BRS = mask_BQS.gather(1, block.row_BR[:, :, None].expand(-1, -1, columns))
    if mask_BRS.dtype == torch.bool:
        return mask_BRS, None
    visible_BRS = mask_BRS > torch.finfo(mask_BRS.dtype).min / 2
    return visible_BRS, mask_BRS.to(logits_BHRS.dtype).masked_fill(~visible_BRS, 0.0)


def _steered(layer: int, block: RowBlock, logits_BHRS: Tensor, visible_BRS: Tensor) -> tuple[Tensor, Tensor]:
    plan, columns = block.plan, logits_BHRS.shape[-1]
    first = block.first_column.get(layer, 0)
    weight_BS, source_BS = (_columns(of_PT, first, columns) for of_PT in (plan.weight_PT, plan.source_PT))
    weight_BS = weight_BS.to(logits_BHRS.dtype)
    if plan.factor_L is not None:
        weight_BS = weight_BS * plan.factor_L[layer]
    steered_BR1 = block.steered_BR[:, :, None]
    source_BRS = steered_BR1 & source_BS[:, None]
    if plan.policy == "knockout":  # a row always sees itself
        column_S = torch.arange(columns, device=logits_BHRS.device) + first
        source_BRS = source_BRS & (column_S != block.place_BR[:, :, None])
    heads = logits_BHRS.shape[1]
    gain_H = torch.full((heads,), plan.gain, dtype=logits_BHRS.dtype, device=logits_BHRS.device)
    if plan.heads is not None:
        gain_H = torch.ones_like(gain_H).index_fill(0, torch.tensor(plan.heads, device=gain_H.device), plan.gain)
    return steered_logits(plan.policy, logits_BHRS, visible_BRS, steered_BR1 * weight_BS[:, None], source_BRS, gain_H)


def _columns(of_PT: Tensor, first: int, count: int) -> Tensor:
    """The `count` columns from `first` on; 0 behind the prompt."""
    there = of_PT[:, first : first + count]
    return pad(there, (0, count - there.shape[1]))


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
