"""Queries with candidate pools to tensors: the batches of stage `retriever_kl`, made in loader workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from medrag_lightning.batches import CandidatePool, DistillExample, EmbedItem, Example, ReaderBatch

Inputs = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class PoolBatch:
    """The candidates of B queries on one side, padded to K.

    Attributes:
        passage_BKD: float32 stored vectors; 0 on padding.
        logp_BKC: float32 log-probability of each answer after each candidate, summed over its tokens; 0 on padding, and
            everywhere until a live reader has read.
        valid_BK: True on real candidates.
        passages: inputs of the towers for the real candidates, in row order; empty unless passages train.
    """

    passage_BKD: Tensor
    logp_BKC: Tensor
    valid_BK: Tensor
    passages: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Answers:
    """The closed answers of B queries, padded to C: tokens of each (at least 1), which are gold, which are real."""

    token_count_BC: Tensor
    gold_BC: Tensor
    valid_BC: Tensor


@dataclass(frozen=True, slots=True)
class DistillBatch:
    """B queries as inputs of the image tower, their answers, and a pool for each side.

    `readings` are what a live reader reads, in chunks; `place_of[i]` says (side, query, candidate) of the i-th example of all.
    """

    query_ids: tuple[str, ...]
    inputs: Mapping[str, Tensor]
    answers: Answers
    pools: Mapping[str, PoolBatch]
    readings: tuple[ReaderBatch, ...] = ()
    place_of: tuple[tuple[str, int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.query_ids)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> DistillBatch:
        """A copy on `device`."""
        return self._each(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> DistillBatch:
        """A copy in page-locked memory."""
        return self._each(lambda value: value.pin_memory())

    def _each(self, move: Callable[[Any], Any]) -> DistillBatch:
        pools = {}
        for side, pool in self.pools.items():
            passages = {name: move(value) for name, value in pool.passages.items()}
            pools[side] = PoolBatch(move(pool.passage_BKD), move(pool.logp_BKC), move(pool.valid_BK), passages)
        answers = Answers(*(move(t) for t in (self.answers.token_count_BC, self.answers.gold_BC, self.answers.valid_BC)))
        inputs = {name: move(value) for name, value in self.inputs.items()}
        return replace(self, inputs=inputs, answers=answers, pools=pools, readings=tuple(move(one) for one in self.readings))


class DistillCollator:
    """Builds the batches; picklable.

    Args:
        image_inputs, text_inputs: the encoder's.
        sides: whose pools must be there.
        trains_passages: whether the candidates' own images and texts are needed.
        reading: for a live reader, its collator; None with a score table.
        count_tokens: for a live reader, the tokens of answers.
        reader_chunk: examples that a live reader reads at a time.
    """

    def __init__(
        self,
        image_inputs: Callable[[Sequence[Image]], Inputs],
        text_inputs: Callable[[Sequence[str]], Inputs],
        sides: Sequence[str],
        trains_passages: bool,
        reading: Callable[[Sequence[Example]], ReaderBatch] | None = None,
        count_tokens: Callable[[Sequence[str]], list[int]] | None = None,
        reader_chunk: int = 32,
    ) -> None:
        self.image_inputs, self.text_inputs, self.sides = image_inputs, text_inputs, tuple(sides)
        self.trains_passages, self.reading = trains_passages, reading
        self.count_tokens, self.reader_chunk = count_tokens, reader_chunk

    def __call__(self, examples: Sequence[DistillExample]) -> DistillBatch:
        """Raises ValueError where a pool, its scores or its passages are missing, and names the setting."""
        for example in examples:
            self._check(example)
        sides = sorted({side for example in examples for side in example.pools})
        answers = self._answers(examples)
        pools = {s: self._pool(s, [example.pools[s] for example in examples], answers.valid_BC.shape[1]) for s in sides}
        places = [(s, b, k) for s in sides for b, e in enumerate(examples) for k in range(len(e.readings.get(s, ())))]
        read = [examples[b].readings[s][k] for s, b, k in places] if self.reading is not None else []
        step = self.reader_chunk
        readings = tuple(self.reading(read[n : n + step]) for n in range(0, len(read), step)) if self.reading else ()
        return DistillBatch(
            tuple(example.query.id for example in examples),
            self.image_inputs([example.image for example in examples]),
            answers,
            pools,
            readings,
            tuple(places) if self.reading is not None else (),
        )

    def _check(self, example: DistillExample) -> None:
        for side in self.sides:
            if side not in example.pools:
                raise ValueError(f"query {example.query.id!r} has no pool for head {side!r}")
        for side, pool in example.pools.items():
            if pool.logp_KC is None and self.reading is None:
                raise ValueError("no score table and no reader: set data.distillation.table, or give the stage a reader")
            if pool.logp_KC is not None and self.reading is not None:
                raise ValueError("data.distillation.table would be ignored by a live reader: set it to null, or drop reader")
            if self.trains_passages and side in self.sides and pool.ids and not pool.passages:
                raise ValueError("passages train, but none are opened: set data.distillation.open_passages to true")

    def _answers(self, examples: Sequence[DistillExample]) -> Answers:
        size = max(len(example.query.choices) for example in examples)
        count_BC = np.ones((len(examples), size), np.int64)
        gold_BC, valid_BC = np.zeros((2, len(examples), size), bool)
        for b, example in enumerate(examples):
            choices = example.query.choices
            pool = next(iter(example.pools.values()))
            counts = self.count_tokens(choices) if self.count_tokens is not None else pool.token_count_C
            count_BC[b, : len(choices)] = counts
            valid_BC[b, : len(choices)] = True
            gold_BC[b, pool.gold] = True
        return Answers(*(torch.from_numpy(array) for array in (count_BC, gold_BC, valid_BC)))

    def _pool(self, side: str, pools: Sequence[CandidatePool], classes: int) -> PoolBatch:
        size, dim = max(1, max(len(pool.ids) for pool in pools)), pools[0].passage_KD.shape[1]
        passage_BKD = np.zeros((len(pools), size, dim), np.float32)
        logp_BKC = np.zeros((len(pools), size, classes), np.float32)
        valid_BK = np.zeros((len(pools), size), bool)
        for b, pool in enumerate(pools):
            count = len(pool.ids)
            passage_BKD[b, :count], valid_BK[b, :count] = pool.passage_KD, True
            if pool.logp_KC is not None:
                logp_BKC[b, :count, : pool.logp_KC.shape[1]] = pool.logp_KC
        opened = [item for pool in pools for item in pool.passages] if self.trains_passages and side in self.sides else []
        passage, logp, valid = (torch.from_numpy(array) for array in (passage_BKD, logp_BKC, valid_BK))
        return PoolBatch(passage, logp, valid, self._passages(side, opened))

    def _passages(self, side: str, opened: Sequence[EmbedItem]) -> Inputs:
        if not opened:
            return {}
        if side == "text":
            return self.text_inputs([item.text for item in opened])
        return self.image_inputs([item.image for item in opened if item.image is not None])
