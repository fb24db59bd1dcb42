"""Mode ``tree`` of the scorer: each image, each shared start of prompts and each shared start of answers is computed once.

A pass reads, for every prompt of a chunk, what follows its shared start (kept as keys and values), and behind it all its
answers as one tree. Positions count along a branch, and a four-axis mask lets a node see its prompt and its own branch alone,
so every number is that of the plain computation. Prompts are grouped by length, so that little padding is computed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medrag_lightning.batches import AnswerRows, EncodedPrompts
from medrag_lightning.models.answer_trie import AnswerTrees, answer_trees
from medrag_lightning.models.attention_rows import NAME as STEERABLE
from medrag_lightning.models.families import Family
from medrag_lightning.models.prompt_layout import PromptLayout, image_inputs, prompt_layout
from medrag_lightning.models.shared_prompts import SharedPrompts, share
from medrag_lightning.models.vision_cache import Features
from medrag_lightning.models.window import last_layer_window

TOKENS_PER_PASS = {"cpu": 2048}  # what fits its caches: 15 % faster than 8192 at width 256
_TOKENS_PER_PASS = 16384  # elsewhere
_PASS = 64  # one pass costs 1 / 64 of the most tokens that it may compute, whatever it computes
_READ_BACK = 4  # keys and values of shared starts that a pass may copy, in units of its tokens
_LOGITS_PER_PASS = 1 << 27


@dataclass(frozen=True, slots=True)
class _Work:
    """Everything that the passes read. `cut_P`: length of a prompt's shared start."""

    model: Any
    family: Family
    prompts: EncodedPrompts
    layout: PromptLayout
    features: Sequence[Features]
    trees: AnswerTrees
    cut_P: list[int]

    def images(self, prompt: int, shared: bool) -> list[Features]:
        """Features of the images in a prompt's shared start, or after it."""
        cut = self.cut_P[prompt]
        chosen = self.layout.images(prompt, stop=cut) if shared else self.layout.images(prompt, start=cut)
        return [self.features[i] for i in chosen]


def tokens_per_pass(prompts: EncodedPrompts) -> int:
    """Most tokens, padding included, that one pass computes on the device of `prompts`."""
    return TOKENS_PER_PASS.get(prompts.ids_PT.device.type, _TOKENS_PER_PASS)


def supports_tree(model: Any, family: Family) -> bool:
    """Whether the family is tested with answer trees, and the attention that is set takes a mask of four axes."""
    text = model.config.get_text_config()
    sliding = "sliding_attention" in (getattr(text, "layer_types", None) or ())
    return family.answer_tree and not sliding and text._attn_implementation in ("sdpa", "eager", STEERABLE)


@torch.no_grad()
def by_tree(model: Any, family: Family, prompts: EncodedPrompts, features: Sequence[Features], rows: AnswerRows) -> Tensor:
    """Log-probability in nats of every answer token, float32 (R, L), 0 on padding.

    Args:
        model: a Hugging Face image-text-to-text model for which `supports_tree`.
        family: its traits.
        prompts: P prompts.
        features: of every image in ``prompts.vision``.
        rows: R answers.
    """
    layout, trees = prompt_layout(model, family, prompts, features), answer_trees(rows, len(prompts.ids_PT))
    work = _Work(model, family, prompts, layout, features, trees, [0] * len(prompts.ids_PT))
    asked = sorted(set(rows.prompt_of_row_R.tolist()))
    shared = share([layout.symbols[p] for p in asked])
    groups = [SharedPrompts(group.length, tuple(asked[i] for i in group.members)) for group in shared]
    for group in groups:
        for prompt in group.members:
            work.cut_P[prompt] = group.length
    rows_of: list[list[int]] = [[] for _ in prompts.ids_PT]
    for row, prompt in enumerate(rows.prompt_of_row_R.tolist()):
        rows_of[prompt].append(row)
    logp_RL = torch.zeros(rows.ids_RL.shape, device=rows.ids_RL.device)
    limit = tokens_per_pass(prompts)
    for chunk in chunks([group.length for group in groups], limit):
        some = [groups[i] for i in chunk]
        cache = _read_shared(work, some)  # (keys and values, mask of their columns)
        group_of = {p: g for g, group in enumerate(some) for p in group.members}
        members = list(group_of)
        for part in chunks(_prices(work, members, max(group.length for group in some)), limit):
            chosen = [members[i] for i in part]
            logits_PNV = _read_rest(work, chosen, cache, [group_of[p] for p in chosen])
            _gather(logits_PNV, work.trees, rows, [rows_of[p] for p in chosen], logp_RL)
    return logp_RL.masked_fill_(~rows.mask_RL, 0.0)


def chunks(prices: Sequence[int], limit: int) -> list[list[int]]:
    """Positions of `prices` in groups of similar price, each of which, padded to its dearest, costs at most `limit`.

    Of all such groupings (in order of price) the one that costs least, where a pass costs `limit` / `_PASS` besides.
    """
    order = sorted(range(len(prices)), key=lambda i: prices[i])
    least, begin = np.zeros(len(order) + 1, dtype=np.int64), [0]  # of the first n: cost, and where the last group begins
    for end, i in enumerate(order, start=1):
        first = max(0, end - limit // prices[i]) if prices[i] else 0
        starts = np.arange(min(first, end - 1), end)
        cost = least[starts] + (end - starts) * prices[i] + limit // _PASS
        best = int(cost.argmin())
        begin.append(int(starts[best]))
        least[end] = cost[best]
    groups, end = [], len(order)
    while end:
        groups.append(sorted(order[begin[end] : end]))
        end = begin[end]
    return groups[::-1]


def _prices(work: _Work, members: Sequence[int], shared: int) -> list[int]:
    """What a prompt costs in its pass, in tokens: those computed, or the keys and values read back, or the logits."""
    width, nodes = work.prompts.ids_PT.shape[1], work.trees.ids_PN.shape[1]
    logits = (1 + nodes) * int(work.model.config.get_text_config().vocab_size)
    least = -(-logits * tokens_per_pass(work.prompts) // _LOGITS_PER_PASS)
    after = [width - work.layout.start_P[p] - work.cut_P[p] + nodes for p in members]
    return [max(count, -(-(shared + count) // _READ_BACK), least) for count in after]


_Cache = tuple[Any, Tensor]  # keys and values of shared starts, and which of their columns are real


def _read_shared(work: _Work, groups: Sequence[SharedPrompts]) -> _Cache | None:
    width = max(group.length for group in groups)
    if width == 0:
        return None
    prompts, device = work.prompts, work.prompts.ids_PT.device
    one = [group.members[0] for group in groups]
    start = torch.tensor([work.layout.start_P[p] for p in one], device=device)[:, None]
    stop = start + torch.tensor([group.length for group in groups], device=device)[:, None]
    columns = stop - width + torch.arange(width, device=device)
    real = columns >= start
    columns = columns.clamp_min(0)
    ids = prompts.ids_PT[one].gather(1, columns).where(real, prompts.ids_PT[one, -1:])
    place = work.layout.place[..., one, :]
    features = [feature for p in one for feature in work.images(p, shared=True)]
    with last_layer_window(work.model, work.family, 1):  # of the last layer only keys and values are wanted
        output = work.model(
            input_ids=ids,
            attention_mask=real.to(prompts.mask_PT.dtype),
            position_ids=place.gather(-1, columns.expand(*place.shape[:-1], -1)),
            use_cache=True,
            logits_to_keep=1,  # none is wanted; but the whole model's forward gathers divided weights
            **image_inputs(features),
        )
    return output.past_key_values, real


def _read_rest(work: _Work, chosen: Sequence[int], shared: _Cache | None, group_of: Sequence[int]) -> Tensor:
    """Logits (P, 1 + N, V) at the last token of the chosen prompts and at the nodes of their trees."""
    prompts, trees, index = work.prompts, work.trees, list(chosen)
    first = [work.layout.start_P[p] + work.cut_P[p] for p in index]
    width = prompts.ids_PT.shape[1]
    columns = torch.arange(min(first), width, device=prompts.ids_PT.device)
    real = columns >= torch.tensor(first, device=columns.device)[:, None]
    last = prompts.ids_PT[index, -1:]
    ids = prompts.ids_PT[index, min(first) :].where(real, last)
    nodes = trees.ids_PN[index]
    place = work.layout.place[..., index, :]
    cache, mask = None, _sight(real, trees.sees_PNN[index])
    if shared is not None:
        cache = _selected(shared[0], group_of)
        mask = torch.cat([shared[1][list(group_of)][:, None].expand(-1, mask.shape[1], -1), mask], -1)
    if work.model.config.get_text_config()._attn_implementation == "eager":
        mask = torch.zeros_like(mask, dtype=work.model.dtype).masked_fill_(~mask, torch.finfo(work.model.dtype).min)
    keep = 1 + nodes.shape[1]
    with last_layer_window(work.model, work.family, keep):
        output = work.model(
            input_ids=torch.cat([ids, nodes.where(nodes >= 0, last)], 1),
            attention_mask=mask[:, None],
            position_ids=torch.cat([place[..., min(first) :], place[..., -1:] + 1 + trees.depth_PN[index]], -1),
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=keep,
            **image_inputs([feature for p in index for feature in work.images(p, shared=False)]),
        )
    logits_PNV: Tensor = output.logits
    return logits_PNV


def _sight(real_PS: Tensor, sees_PNN: Tensor) -> Tensor:
    """bool (P, S + N, S + N): who sees whom among the rest of the prompts and the nodes. Padding sees itself: a row of nothing
    would be NaN."""
    rest, nodes = real_PS.shape[1], sees_PNN.shape[1]
    sees = torch.ones(rest + nodes, rest + nodes, dtype=torch.bool, device=real_PS.device).tril()
    sees = sees.repeat(len(real_PS), 1, 1)
    sees[:, :, :rest] &= real_PS[:, None]
    sees[:, rest:, rest:] = sees_PNN
    sees.diagonal(dim1=1, dim2=2).fill_(True)
    return sees


def _selected(cache: Any, index: Sequence[int]) -> Any:
    """A copy of `cache` with its rows chosen and repeated; the original is read again by other passes."""
    made = copy.copy(cache)
    made.layers = [copy.copy(layer) for layer in cache.layers]
    made.batch_select_indices(torch.tensor(index, device=cache.layers[0].keys.device))
    return made


def _gather(logits_PNV: Tensor, trees: AnswerTrees, rows: AnswerRows, rows_of: Sequence[Sequence[int]], out_RL: Tensor) -> None:
    """Writes log-probabilities of the answers of a pass's prompts to their rows."""
    logits_PNV = logits_PNV.float()
    total_PN = logits_PNV.logsumexp(-1)
    index = [row for of_prompt in rows_of for row in of_prompt]
    local = torch.tensor([p for p, of_prompt in enumerate(rows_of) for _ in of_prompt], device=out_RL.device)[:, None]
    slot_RL = trees.slot_RL[index]
    out_RL[index] = logits_PNV[local, slot_RL, rows.ids_RL[index]] - total_PN[local, slot_RL]
