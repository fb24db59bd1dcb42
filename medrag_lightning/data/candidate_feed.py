"""Questions with their candidates, and what a frozen reader said with each alone, for stage `candidate_reranker`."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from medrag_lightning.batches import CandidateBatch
from medrag_lightning.data.feeds import World
from medrag_lightning.data.fusion_feed import FusionPlan
from medrag_lightning.data.sampler import SampleKey
from medrag_lightning.data.scores import ScoreTable
from medrag_lightning.mixture import (
    FEATURES,
    QUESTION_FEATURES,
    candidate_features,
    found_by_image,
    log_softmax,
    question_features,
)
from medrag_lightning.records import AnswerType, Candidate, Query, Split
from medrag_lightning.score_files import documents_fingerprint

logger = logging.getLogger(__name__)
Scored = tuple[Query, Sequence[Candidate], NDArray[np.float64], int]
"""A question, its candidates, log-probabilities of its choices with each (K, C) (open: of the gold answer a token, (K, 1)), and
the place of the gold answer among them."""


class CandidateItems(Dataset[CandidateBatch]):
    """N questions as one batch on the CPU; a batch is a part of it.

    Attributes:
        everything: all of them.
        query_ids: in the same order.
    """

    def __init__(self, scored: Sequence[Scored]) -> None:
        self.query_ids = [query.id for query, *_ in scored]
        self.everything = stacked(scored)

    def __len__(self) -> int:
        return len(self.query_ids)

    def __getitem__(self, keys: Sequence[SampleKey]) -> CandidateBatch:
        return self.everything.at(torch.tensor([key.place for key in keys], dtype=torch.int64))


class CandidateFeed:
    """Questions whose candidates a frozen reader has scored one by one; of FusionPlan the table alone matters."""

    def __init__(self, world: World, plan: FusionPlan) -> None:
        self.world, self.plan = world, plan
        self.table = ScoreTable.open(plan.table)
        self.table.check(corpus=documents_fingerprint(world.documents))

    def training(self) -> CandidateItems:
        """The training questions."""
        return self._items(Split.TRAIN)

    def validation(self, alone: bool) -> list[CandidateItems]:
        """The validation questions; their candidates must have been scored, too (data.scoring.splits)."""
        return [self._items(Split.VAL)]

    def test(self) -> list[CandidateItems]:
        """The test questions, where they have been scored."""
        return [self._items(Split.TEST)]

    def prediction(self) -> CandidateItems:
        """Nothing is predicted."""
        raise ValueError(
            "stage candidate_reranker predicts nothing; reader_raft answers with it (model.init_args.candidate_reranker)"
        )

    def _items(self, split: Split) -> CandidateItems:
        asked = self.world.queries[split]
        found = [(query, self.world.retrieved[query.id].candidates) for query in asked if query.answer is not None]
        kept = [(query, candidates) for query, candidates in found if len(candidates) >= 2]
        if not kept:
            raise ValueError(f"no {split} question has a gold answer and two candidates; check the tables and data.source")
        if left_out := len(asked) - len(kept):
            logger.info("%s: %d questions lack a gold answer or two candidates; left out", split, left_out)
        return CandidateItems([self._scored(query, candidates) for query, candidates in kept])

    def _scored(self, query: Query, candidates: Sequence[Candidate]) -> Scored:
        logp_KC, count_C, gold = self.table.one_candidate(query.id, [one.id for one in candidates])
        closed = query.answer_type is AnswerType.CLOSED
        if (gold, logp_KC.shape[1]) != ((query.gold_index, len(query.choices)) if closed else (0, 1)):
            raise ValueError(
                f"the score table {self.plan.table} scored query {query.id!r} with {logp_KC.shape[1]} answers and gold answer "
                f"number {gold}, which are not those of the data; score it again in another folder"
            )
        known_KC = logp_KC.astype(np.float64)
        return query, candidates, (log_softmax(known_KC, axis=1) if closed else known_KC / count_C[0]), gold


def stacked(scored: Sequence[Scored]) -> CandidateBatch:
    """Questions with their candidates as arrays, padded."""
    most_K = max(len(candidates) for _, candidates, _, _ in scored)
    most_C = max(max(len(query.choices) for query, *_ in scored), 1)
    made = _empty(len(scored), most_K, most_C)
    for b, (query, candidates, logp_KC, gold) in enumerate(scored):
        closed, size = query.answer_type is AnswerType.CLOSED, len(candidates)
        features_KF = candidate_features(query, candidates, logp_KC if closed else None)
        made.feature_BKF[b, :size] = torch.from_numpy(features_KF)
        made.question_BQ[b] = torch.from_numpy(question_features(query))
        made.by_image_BK[b, :size] = torch.from_numpy(found_by_image(candidates))
        made.valid_BK[b, :size] = True
        made.gold_logp_BK[b, :size] = torch.from_numpy(logp_KC[:, gold])
        made.score_BK[b, :size] = torch.tensor([one.score for one in candidates])
        if closed:
            made.logp_BKC[b, :size, : len(query.choices)] = torch.from_numpy(logp_KC)
            made.gold_B[b] = gold
    return made


def _empty(count: int, most_K: int, most_C: int) -> CandidateBatch:
    def flags() -> Tensor:
        return torch.zeros((count, most_K), dtype=torch.bool)

    return CandidateBatch(
        torch.zeros((count, most_K, len(FEATURES))),
        torch.zeros((count, QUESTION_FEATURES)),
        flags(),
        flags(),
        torch.zeros((count, most_K)),
        torch.full((count, most_K, most_C), -torch.inf),
        torch.full((count,), -1),
        torch.zeros((count, most_K)),
    )
