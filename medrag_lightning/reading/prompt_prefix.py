"""Prompts whose answer has begun: what a reader goes on writing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from medrag_lightning.batches import EncodedPrompts


def begun(prompts: EncodedPrompts, ids: Sequence[Sequence[int]]) -> EncodedPrompts:
    """The P prompts, each followed by the first ids of its answer, left-padded anew.

    Args:
        prompts: without steering or roles, which count tokens from the left.
        ids: of each prompt's begun answer; may be empty.
    """
    assert prompts.steering is None, "tokens are counted anew"
    assert prompts.roles is None, "tokens are counted anew"
    if not any(ids):
        return prompts
    device = prompts.ids_PT.device
    rows = [
        torch.cat([row[mask.bool()], torch.tensor(list(more), dtype=row.dtype, device=device)])
        for row, mask, more in zip(prompts.ids_PT, prompts.mask_PT, ids, strict=True)
    ]
    longest = max(map(len, rows))
    ids_PT = torch.zeros((len(rows), longest), dtype=prompts.ids_PT.dtype, device=device)
    mask_PT = torch.zeros((len(rows), longest), dtype=prompts.mask_PT.dtype, device=device)
    for place, row in enumerate(rows):
        ids_PT[place, longest - len(row) :] = row
        mask_PT[place, longest - len(row) :] = 1
    return replace(prompts, ids_PT=ids_PT, mask_PT=mask_PT)
