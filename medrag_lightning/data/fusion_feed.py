"""Queries with the similarities of their candidates and a frozen reader's confidence, for stage `fusion_nce` (MR-RAG, MCR)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.batches import FusionBatch
from medrag_lightning.data.array_cache import cached_array
from medrag_lightning.data.feeds import World
from medrag_lightning.data.sampler import SampleKey
from medrag_lightning.data.scores import ScoreTable
from medrag_lightning.interfaces import SimilaritySource
from medrag_lightning.records import AnswerType, Channel, Query, Split
from medrag_lightning.score_files import documents_fingerprint, query_fingerprint

logger = logging.getLogger(__name__)
ChannelName = Literal["image_to_text", "image_to_image", "text_to_text", "text_to_image"]
CHUNK = 4096


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class FusionPlan:
    """What stage `fusion_nce` learns from: the union of the candidates that the source's channels find for a query.

    Args:
        table: folder of the score table; it must hold every candidate alone, with the query's own image.
        channels: the similarities that are computed; the stage may use some of them.
        cache: where similarities and confidences are kept between runs; null computes them anew in every run.
    """

    table: str = "runs/scores"
    channels: tuple[ChannelName, ...] = ("image_to_text", "image_to_image", "text_to_text")
    cache: str | None = "runs/similarities"

    def __post_init__(self) -> None:
        if not self.channels or len(set(self.channels)) != len(self.channels):
            raise ValueError(f"fusion.channels must name at least one similarity, each once; got {list(self.channels)}")


class FusionItems(Dataset[FusionBatch]):
    """N queries as arrays, which may be memory-mapped; a batch is a slice of them.

    Attributes:
        channels: M of them.
        similarity_NKM: float32; NaN where a side is missing and on padding.
        log_confidence_NK: float32, nats; NaN on padding, and (set here) without any similarity.
        rank_NK: int16; see `batches.FusionBatch`.
        modality: of each query.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        similarity_NKM: NDArray[np.float32],
        log_confidence_NK: NDArray[np.float32],
        modality: Sequence[str | None],
    ) -> None:
        assert similarity_NKM.shape == (len(modality), log_confidence_NK.shape[1], len(channels))
        self.channels, self.modality = tuple(channels), list(modality)
        self.similarity_NKM = similarity_NKM
        self.log_confidence_NK = np.where(np.isnan(similarity_NKM).all(-1), np.float32(np.nan), log_confidence_NK)
        self.rank_NK = ranked(self.log_confidence_NK)

    def __len__(self) -> int:
        return len(self.modality)

    def __getitem__(self, keys: Sequence[SampleKey]) -> FusionBatch:
        places = [key.place for key in keys]
        arrays = (np.asarray(array[places]) for array in (self.similarity_NKM, self.log_confidence_NK, self.rank_NK))
        similarity, confidence, rank = (torch.from_numpy(array) for array in arrays)
        return FusionBatch(self.channels, similarity, confidence, rank, tuple(self.modality[place] for place in places))


class FusionFeed:
    """Queries with pools of candidates that a frozen reader has scored."""

    def __init__(self, world: World, plan: FusionPlan) -> None:
        if not isinstance(world.source, SimilaritySource):
            raise ValueError(f"data.source: {type(world.source).__name__} tells no similarities; use LiveSearch")
        self.world, self.plan, self.source = world, plan, world.source
        self.table = ScoreTable.open(plan.table)
        self.corpus = documents_fingerprint(world.documents)
        self.table.check(corpus=self.corpus)

    def training(self) -> FusionItems:
        """The training queries."""
        return self._items(Split.TRAIN)

    def validation(self, alone: bool) -> list[FusionItems]:
        """The validation queries; their candidates must have been scored, too (data.scoring.splits)."""
        return [self._items(Split.VAL)]

    def test(self) -> list[FusionItems]:
        """The test queries, where they have been scored."""
        return [self._items(Split.TEST)]

    def prediction(self) -> FusionItems:
        """Nothing is predicted."""
        raise ValueError("stage fusion_nce predicts nothing; search with retrieval.fused.FusedSearch instead")

    def _items(self, split: Split) -> FusionItems:
        asked = [query for query in self.world.queries[split] if query.answer is not None]
        pools = [tuple(dict.fromkeys(c.id for c in self.world.retrieved[query.id].candidates)) for query in asked]
        kept = [place for place, ids in enumerate(pools) if len(ids) >= 2]
        if not kept:
            raise ValueError(f"no {split} question has a gold answer and two candidates; check the tables and data.source")
        if left_out := len(self.world.queries[split]) - len(kept):
            logger.info("%s: %d queries lack a gold answer or two candidates; left out", split, left_out)
        queries, ids = [asked[place] for place in kept], [pools[place] for place in kept]
        channels = [Channel(name) for name in self.plan.channels]
        told: list[list[Any]] = [[query.searches for query in queries], [query.rewritten for query in queries]]
        worded = [one for one in told if any(words is not None for words in one)]
        pool_key = fingerprint([query_fingerprint(query) for query in queries], [list(one) for one in ids], *worded)
        searched = {"queries and candidates": pool_key, "corpus": self.corpus}
        similarity_NKM = cached_array(
            self.plan.cache,
            "similarities",
            {**searched, "source": self.world.source.fingerprint(), "channels": [str(name) for name in channels]},
            lambda: self._similarities(queries, ids, channels),
        )
        log_confidence_NK = cached_array(
            self.plan.cache,
            "confidences",
            {**searched, "scores": self.table.manifest["file"]["sha256"]},
            lambda: self._confidences(queries, ids),
        )
        return FusionItems(channels, similarity_NKM, log_confidence_NK, [query.modality for query in queries])

    def _similarities(
        self, queries: Sequence[Query], ids: Sequence[Sequence[str]], channels: Sequence[Channel]
    ) -> NDArray[np.float32]:
        similarity_NKM = np.full((len(queries), max(map(len, ids)), len(channels)), np.nan, np.float32)
        for start in range(0, len(queries), CHUNK):
            part = slice(start, start + CHUNK)
            for place, found_KM in enumerate(self.source.similarities(queries[part], ids[part], channels), start):
                similarity_NKM[place, : len(found_KM)] = found_KM
        return similarity_NKM

    def _confidences(self, queries: Sequence[Query], ids: Sequence[Sequence[str]]) -> NDArray[np.float32]:
        log_confidence_NK = np.full((len(queries), max(map(len, ids))), np.nan, np.float32)
        for place, (query, pool) in enumerate(zip(queries, ids, strict=True)):
            log_confidence_NK[place, : len(pool)] = self._confidence(query, pool)
        return log_confidence_NK

    def _confidence(self, query: Query, pool: Sequence[str]) -> NDArray[np.float64]:
        """log p(gold) with each document alone: over the choices (closed), or a token (open)."""
        logp_KC, count_C, gold = self.table.one_candidate(query.id, pool)
        closed = query.answer_type is AnswerType.CLOSED
        if (gold, logp_KC.shape[1]) != ((query.gold_index, len(query.choices)) if closed else (0, 1)):
            raise ValueError(
                f"the score table {self.plan.table} scored query {query.id!r} with {logp_KC.shape[1]} answers and gold answer "
                f"number {gold}, which are not those of the data; score it again in another folder"
            )
        logp_KC64 = logp_KC.astype(np.float64)
        shared_K = np.logaddexp.reduce(logp_KC64, axis=1)
        confidence_K: NDArray[np.float64] = logp_KC64[:, gold] - shared_K if closed else logp_KC64[:, 0] / count_C[0]
        return confidence_K


def ranked(log_confidence_NK: NDArray[np.float32]) -> NDArray[np.int16]:
    """Place of each candidate by confidence, 0 the best; the earlier one first among equals, NaN (padding) last."""
    rank_NK = np.empty(log_confidence_NK.shape, np.int16)
    places_K = np.arange(log_confidence_NK.shape[1], dtype=np.int16)
    for start in range(0, len(rank_NK), CHUNK):
        order_BK = np.argsort(-log_confidence_NK[start : start + CHUNK], axis=1, kind="stable")
        np.put_along_axis(rank_NK[start : start + CHUNK], order_BK, np.broadcast_to(places_K, order_BK.shape), axis=1)
    return rank_NK
