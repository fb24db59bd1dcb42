"""Preference pairs, open and encoded."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medrag_lightning.batches.reading import AnswerRows, EncodedPrompts, Example
from medrag_lightning.records import Preference


@dataclass(frozen=True, slots=True)
class PreferenceExample:
    """A pair and what each side shows. Sides of one condition hold the very same `Example` object."""

    pair: Preference
    chosen: Example
    rejected: Example


@dataclass(frozen=True, slots=True)
class PreferenceBatch:
    """B pairs as P prompts and R answer rows. What both sides of a pair show is one prompt, and pairs of one query share it.

    Attributes:
        pairs: the B pairs.
        prompts: the P distinct prompts; `pack_of_prompt` brings those of one query together.
        rows: the R distinct (prompt, answer) rows.
        chosen_B, rejected_B: int64, the row of each side.
        weight_B: float32, each pair's share in the loss.
        reference_B2: float32, stored log-probability in nats of the chosen and the rejected answer; NaN where none is stored.
        token_count: real prompt and answer tokens, for throughput.
    """

    pairs: tuple[Preference, ...]
    prompts: EncodedPrompts
    rows: AnswerRows
    chosen_B: Tensor
    rejected_B: Tensor
    weight_B: Tensor
    reference_B2: Tensor
    token_count: int = 0

    def __len__(self) -> int:
        return len(self.pairs)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PreferenceBatch:
        """A copy on `device`."""
        names = ("chosen_B", "rejected_B", "weight_B", "reference_B2")
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in names}
        prompts, rows = self.prompts.to(device, non_blocking), self.rows.to(device, non_blocking)
        return replace(self, prompts=prompts, rows=rows, **moved)

    def pin_memory(self) -> PreferenceBatch:
        """A copy in page-locked memory."""
        names = ("chosen_B", "rejected_B", "weight_B", "reference_B2")
        pinned = {name: getattr(self, name).pin_memory() for name in names}
        return replace(self, prompts=self.prompts.pin_memory(), rows=self.rows.pin_memory(), **pinned)
