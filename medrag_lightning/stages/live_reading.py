"""A frozen reader that scores candidates in every step, as JOMED's code does: the dear way to the numbers of a score table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import nn

from medrag_lightning.batches import ReaderBatch
from medrag_lightning.interfaces import Reader
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.raft_collator import RaftCollator
from medrag_lightning.stages.distill_collator import DistillBatch
from medrag_lightning.stages.frozen_reader import load_reader


class LiveReading(nn.Module):
    """Reads the candidates of a batch, each alone in a prompt.

    Args:
        reader: the reader; frozen, and in evaluation mode always.
        checkpoint: of stage `reader_raft` or `reader_preference`; None for the reader as it is.
        template: how prompts are built.
        chunk: prompts at a time.

    Attributes:
        prompts_read: prompts that the reader has been given so far.
    """

    def __init__(self, reader: Reader, checkpoint: str | None, template: PromptTemplate, chunk: int) -> None:
        super().__init__()
        if chunk < 1:
            raise ValueError(f"reader_chunk must be at least 1, got {chunk}")
        if template.max_prompt_tokens is not None:
            raise ValueError("template.max_prompt_tokens: a live reader reads one candidate a prompt and drops none; null")
        self.reader, self.checkpoint, self.template, self.chunk = reader, checkpoint, template, chunk
        self.prompts_read = 0

    def prepare(self, texts: Iterable[str]) -> None:
        """Builds or loads the reader, with the weights of the checkpoint, and freezes it."""
        if self.checkpoint is None:
            self.reader.prepare(texts)
        else:
            load_reader(self, self.reader, self.checkpoint, self.template)
        self.requires_grad_(False).eval()

    def collator(self) -> RaftCollator:
        """Examples of one candidate each to encoded parts, with every answer to be scored."""
        return RaftCollator(self.reader.processor, self.template, one_candidate_per_prompt=True, training=False)

    def count_tokens(self, answers: Sequence[str]) -> list[int]:
        """Tokens of each answer, its end included."""
        return [len(ids) for ids in self.reader.processor.encode_answers(list(answers))]

    def train(self, mode: bool = True) -> LiveReading:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def read(self, batch: DistillBatch) -> DistillBatch:
        """The batch with the reader's log-probabilities in its pools."""
        found = {side: torch.zeros_like(pool.logp_BKC) for side, pool in batch.pools.items()}
        start = 0
        for reading in batch.readings:
            self._read(reading, batch.place_of[start : start + len(reading)], found)
            start += len(reading)
        return replace(batch, pools={side: replace(pool, logp_BKC=found[side]) for side, pool in batch.pools.items()})

    def _read(self, reading: ReaderBatch, places: Sequence[tuple[str, int, int]], found: dict[str, torch.Tensor]) -> None:
        for part in reading.parts:
            assert part.rows is not None
            self.prompts_read += len(part.query_of_prompt)
            total_R = self.reader.token_logp(part.prompts, part.rows).double().sum(dim=1)
            rows: dict[int, list[int]] = defaultdict(list)
            for row, prompt in enumerate(part.rows.prompt_of_row_R.tolist()):
                rows[prompt].append(row)
            for prompt, mine in rows.items():
                side, b, k = places[part.query_of_prompt[prompt]]
                found[side][b, k, : len(mine)] = total_R[mine].to(found[side].dtype)
