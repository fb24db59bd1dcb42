"""A reader that reads every candidate alone, with gradients, a few prompts at a time: what stage `joint` sends them through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from medrag_lightning.batches import Example, ReaderBatch
from medrag_lightning.interfaces import Reader
from medrag_lightning.losses import in_chunks
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.raft_collator import RaftCollator
from medrag_lightning.stages.distill_collator import DistillBatch
from medrag_lightning.stages.frozen_reader import load_reader

Places = Sequence[tuple[str, int, int]]


@dataclass(frozen=True)
class PackedReading:
    """Examples of one candidate each to encoded parts; the answers and prompts of one question share what they begin with.

    Args:
        collator: makes the parts, for the gold answer alone or for every answer.
    """

    collator: RaftCollator

    def __call__(self, examples: Sequence[Example]) -> ReaderBatch:
        """As the collator's, in packs of one question (`EncodedPrompts.pack_of_prompt`)."""
        batch = self.collator(examples)
        number = {name: n for n, name in enumerate(dict.fromkeys(example.query.id for example in examples))}
        parts = []
        for part in batch.parts:
            packs = tuple(number[examples[place].query.id] for place in part.query_of_prompt)
            parts.append(replace(part, prompts=replace(part.prompts, pack_of_prompt=packs)))
        return replace(batch, parts=tuple(parts))


class JointReading:
    """Reads the candidates of a batch, each alone in a prompt.

    Args:
        reader: the reader; its owner trains it.
        template: how prompts are built.
        chunk: prompts whose activations exist at a time. In training each chunk is read twice: once for its numbers, once more
            when their gradient is known (GradCache). It changes no number.

    Attributes:
        prompts_read: prompts that were read so far; a second reading for the gradient does not count.
    """

    def __init__(self, reader: Reader, template: PromptTemplate, chunk: int) -> None:
        if chunk < 1:
            raise ValueError(f"reader_chunk must be at least 1, got {chunk}")
        if template.max_prompt_tokens is not None:
            raise ValueError("template.max_prompt_tokens: candidates are read one a prompt and none is dropped; set it to null")
        self.reader, self.template, self.chunk = reader, template, chunk
        self.prompts_read = 0

    def load(self, checkpoint: str) -> None:
        """Gives the reader the weights of a checkpoint of stage `reader_raft`, `reader_preference` or `joint`."""
        holder = nn.Module()
        holder.reader = self.reader  # type: ignore[assignment]
        load_reader(holder, self.reader, checkpoint, self.template)

    def collator(self, only_gold: bool) -> PackedReading:
        """Examples to prompts, with every answer to be scored, or the gold one alone."""
        return PackedReading(RaftCollator(self.reader.processor, self.template, True, training=only_gold))

    def count_tokens(self, answers: Sequence[str]) -> list[int]:
        """Tokens of each answer, its end included."""
        return [len(ids) for ids in self.reader.processor.encode_answers(list(answers))]

    def read(self, batch: DistillBatch) -> DistillBatch:
        """The batch with the reader's log-probabilities in its pools, with a gradient where gradients are on.

        Where the gold answer alone was encoded, the other answers stay 0.
        """
        total, at = self._totals(batch)
        pools = {}
        for side, pool in batch.pools.items():
            logp_BKC = torch.zeros_like(pool.logp_BKC)
            mine = [n for n, (name, *_) in enumerate(at) if name == side]
            if mine:
                place = torch.tensor([at[n][1:] for n in mine], device=logp_BKC.device).unbind(1)
                logp_BKC = logp_BKC.index_put(place, total[torch.tensor(mine, device=total.device)].to(logp_BKC.dtype))
            pools[side] = replace(pool, logp_BKC=logp_BKC)
        return replace(batch, pools=pools)

    def _totals(self, batch: DistillBatch) -> tuple[Tensor, list[tuple[str, int, int, int]]]:
        """The log-probability of every row of every part, and (side, query, candidate, answer) of each."""
        parts, at, counts, start = [], [], [], 0
        gold_of = batch.answers.gold_BC.int().argmax(1).tolist()
        for reading in batch.readings:
            places = batch.place_of[start : start + len(reading)]
            start += len(reading)
            for part in reading.parts:
                assert part.rows is not None
                self.prompts_read += len(part.query_of_prompt)
                found = _answers_of(part, places, gold_of)
                parts.append(part)
                at += found
                counts.append(len(found))
        device = batch.answers.gold_BC.device
        weights = [p for p in _module(self.reader).parameters() if p.requires_grad]
        padded = _Padded(self.reader, parts, max(counts, default=0))
        if torch.is_grad_enabled() and weights and parts:
            total_NR = in_chunks(padded, {"part": torch.arange(len(parts), device=device)}, 1, weights)
        else:
            total_NR = (
                torch.cat([padded({"part": torch.tensor([n])}) for n in range(len(parts))]) if parts else torch.zeros(0, 0)
            )
        rows = [total_NR[n, :count] for n, count in enumerate(counts)]
        return torch.cat(rows) if rows else torch.zeros(0, device=device), at


@dataclass(frozen=True)
class _Padded:
    """Number of a part to the log-probabilities of its rows, (1, size), 0 behind the last."""

    reader: Reader
    parts: Sequence[Any]
    size: int

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        part = self.parts[int(inputs["part"][0])]
        total_R = self.reader.token_logp(part.prompts, part.rows).sum(dim=1)
        return torch.nn.functional.pad(total_R, (0, self.size - len(total_R)))[None]


def _answers_of(part: Any, places: Places, gold_of: Sequence[int]) -> list[tuple[str, int, int, int]]:
    """(side, query, candidate, answer) of each row of a part; a prompt with one row has the gold answer's."""
    prompts = part.rows.prompt_of_row_R.tolist()
    rows, seen = Counter(prompts), Counter[int]()
    found = []
    for prompt in prompts:
        side, b, k = places[part.query_of_prompt[prompt]]
        found.append((side, b, k, gold_of[b] if rows[prompt] == 1 else seen[prompt]))
        seen[prompt] += 1
    return found


def _module(reader: Reader) -> nn.Module:
    assert isinstance(reader, nn.Module)
    return reader
