"""Queries with pools of scored candidates, for stage `retriever_kl` (JOMED, stage 2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from torch.utils.data import Dataset

from medrag_lightning.artifacts import counter_rng
from medrag_lightning.batches import CandidatePool, DistillExample, EmbedItem, Example
from medrag_lightning.data.augment import Augmentation
from medrag_lightning.data.feeds import World
from medrag_lightning.data.sampler import SampleKey
from medrag_lightning.data.scores import ScoreTable
from medrag_lightning.interfaces import VectorSource
from medrag_lightning.records import AnswerType, Candidate, Channel, ImageShown, Query, Regime, Split
from medrag_lightning.score_files import documents_fingerprint

logger = logging.getLogger(__name__)

CHANNEL_OF = {"image": Channel.IMAGE_TO_IMAGE, "text": Channel.IMAGE_TO_TEXT}
"""The channel that fills the pool of each head: both heads ask with the query image."""


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class DistillationPlan:
    """What stage `retriever_kl` learns from.

    The pools are the candidates that the source finds by ``image_to_text`` (head `text`) and ``image_to_image`` (head
    `image`); give the source ``distinct_documents: false``, or a document that both find is in one pool only.

    Args:
        table: folder of the score table; null for a stage with a live reader.
        pool: ``retrieved``, every candidate that the source finds (one that was not scored is an error that says how to score
            it); ``scored``, those of them that the table holds, as a pool that stays while the index is refreshed.
        balance: whether an epoch draws every answer class equally often. Classes are gone through without replacement across
            epochs, so that every query of every class has its turn. Otherwise every query comes exactly once an epoch.
        open_passages: opens the candidates' images and texts, for a stage that trains the passages, too.
    """

    table: str | None = "runs/scores"
    pool: Literal["retrieved", "scored"] = "retrieved"
    balance: bool = False
    open_passages: bool = False

    def __post_init__(self) -> None:
        if self.table is None and self.pool == "scored":
            raise ValueError("distillation.pool: scored needs a score table; set distillation.table, or pool to retrieved")


class CandidateScores(Protocol):
    """What the feed asks of a score table."""

    def one_candidate(self, query_id: str, ids: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
        """logp_KC, token_count_C and the gold answer's place; ValueError names what was not scored and the command."""
        ...

    def of_query(self, query_id: str) -> Sequence[Any]:
        """Every `records.Score` of a query."""
        ...


@dataclass(frozen=True, slots=True)
class _Pool:
    """The candidates of one query for one head, and what the table says of them (None: a live reader will)."""

    candidates: tuple[Candidate, ...]
    logp_KC: NDArray[np.float32] | None
    token_count_C: NDArray[np.int64]


class DistillItems(Dataset[list[DistillExample]]):
    """The queries of a split that a retriever can learn from: closed, with a gold answer, an image and a candidate.

    The scores of all pools are read when this is made: what is missing is told before training, and loader workers read no
    table. Vectors stay in the store's memory map.
    """

    def __init__(
        self,
        world: World,
        plan: DistillationPlan,
        scores: CandidateScores | None,
        split: Split,
        augmentation: Augmentation | None = None,
    ) -> None:
        if not isinstance(world.source, VectorSource):
            raise ValueError(f"data.source: {type(world.source).__name__} knows no vectors of its documents; use LiveSearch")
        self.world, self.plan, self.scores, self.vectors = world, plan, scores, world.source
        self.augmentation = augmentation
        found = [(query, self._pools(query)) for query in world.queries[split] if _can_teach(query)]
        self.items = [(query, pools) for query, pools in found if any(pool.candidates for pool in pools.values())]
        self.sides = {side for _, pools in self.items for side, pool in pools.items() if pool.candidates}
        left_out = len(world.queries[split]) - len(self.items)
        if left_out:
            logger.info("%s: %d queries are open, or lack an answer, an image or candidates; left out", split, left_out)
        self._order = _Balanced([query.answer or "" for query, _ in self.items], world.seed) if plan.balance else None
        self._training = split is Split.TRAIN

    def __len__(self) -> int:
        return len(self._order) if self._order is not None and self._training else len(self.items)

    def __getitem__(self, keys: Sequence[SampleKey]) -> list[DistillExample]:
        return [self._one(key) for key in keys]

    def _one(self, key: SampleKey) -> DistillExample:
        place = self._order.item(key) if self._order is not None and self._training else key.place
        query, pools = self.items[place]
        assert query.image is not None
        image = self.world.open_image(query.image)
        readings = {} if self.scores is not None else {side: self._readings(query, image, p) for side, p in pools.items()}
        if self.augmentation is not None:  # the reader's scores are of the image as it is
            image = self.augmentation.apply(image, counter_rng(self.world.seed, "augmentation", key.epoch, query.id, key.place))
        return DistillExample(query, image, {side: self._opened(side, query, pool) for side, pool in pools.items()}, readings)

    def _pools(self, query: Query) -> dict[str, _Pool]:
        retrieved = self.world.retrieved[query.id].candidates
        pools = {}
        for side, channel in CHANNEL_OF.items():
            candidates = tuple(candidate for candidate in retrieved if candidate.channel is channel)
            if self.scores is not None and self.plan.pool == "scored":
                there = _alone(self.scores, query.id)
                candidates = tuple(candidate for candidate in candidates if candidate.id in there)
            pools[side] = self._scored(query, candidates)
        return pools

    def _scored(self, query: Query, candidates: tuple[Candidate, ...]) -> _Pool:
        if self.scores is None or not candidates:
            unknown = np.zeros((len(candidates), len(query.choices)), np.float32)
            return _Pool(candidates, None if self.scores is None else unknown, np.ones(len(query.choices), np.int64))
        logp_KC, count_C, gold = self.scores.one_candidate(query.id, [candidate.id for candidate in candidates])
        if gold != query.gold_index or logp_KC.shape[1] != len(query.choices):
            raise ValueError(
                f"the score table {self.plan.table} scored query {query.id!r} with {logp_KC.shape[1]} choices and gold answer "
                f"number {gold}, the data have {len(query.choices)} and {query.gold_index}; score it again in another folder"
            )
        return _Pool(candidates, logp_KC, count_C)

    def _opened(self, side: str, query: Query, pool: _Pool) -> CandidatePool:
        passage_KD = self.vectors.document_vectors(side, [candidate.id for candidate in pool.candidates])
        passages = [self._passage(candidate) for candidate in pool.candidates] if self.plan.open_passages else []
        ids = tuple(candidate.id for candidate in pool.candidates)
        return CandidatePool(ids, passage_KD, pool.logp_KC, pool.token_count_C, query.gold_index, tuple(passages))

    def _passage(self, candidate: Candidate) -> EmbedItem:
        document = candidate.document
        return EmbedItem(-1, document.text, None if document.image is None else self.world.open_image(document.image))

    def _readings(self, query: Query, image: Image, pool: _Pool) -> tuple[Example, ...]:
        refs = [candidate.document.image for candidate in pool.candidates]
        opened = [None if ref is None else self.world.open_image(ref) for ref in refs]
        return tuple(
            Example(query, Regime.RETRIEVED, (candidate,), image, (shown,))
            for candidate, shown in zip(pool.candidates, opened, strict=True)
        )


class _Balanced:
    """Every class as often as the others; a class is gone through in a new random order each time, without replacement.

    Draw n of a class stands at place ``n mod size`` of its pass ``n div size``, counted over all epochs; so after enough
    epochs every query of every class has come equally often, give or take one (JOMED's code repeats one truncated shuffle).
    """

    def __init__(self, answers: Sequence[str], seed: int) -> None:
        self.members = [[n for n, answer in enumerate(answers) if answer == name] for name in sorted(set(answers))]
        self.per_class, self.seed = -(-len(answers) // max(1, len(self.members))), seed
        self._order: dict[tuple[int, int], NDArray[np.int64]] = {}

    def __len__(self) -> int:
        return self.per_class * len(self.members)

    def item(self, key: SampleKey) -> int:
        """The position of the query that comes at this place of this epoch."""
        draw, kind = divmod(key.place, len(self.members))
        members = self.members[kind]
        turn, place = divmod(key.epoch * self.per_class + draw, len(members))
        if (kind, turn) not in self._order:
            self._order = {known: order for known, order in self._order.items() if known[1] >= turn - 1 or known[0] != kind}
            self._order[kind, turn] = counter_rng(self.seed, "class order", kind, turn).permutation(len(members))
        return members[int(self._order[kind, turn][place])]


class DistillationFeed:
    """Queries with pools of scored candidates."""

    def __init__(self, world: World, plan: DistillationPlan, augmentation: Augmentation | None) -> None:
        self.world, self.plan, self.augmentation = world, plan, augmentation
        self.scores: CandidateScores | None = None
        if plan.table is not None:
            table = ScoreTable.open(plan.table)
            table.check(corpus=documents_fingerprint(world.documents))
            self.scores = table

    def training(self) -> DistillItems:
        """The training queries."""
        return self._items(Split.TRAIN, self.augmentation)

    def validation(self, alone: bool) -> list[DistillItems]:
        """The validation queries, once each; their candidates must have been scored, too (data.scoring.splits)."""
        return [self._items(Split.VAL, None)]

    def test(self) -> list[DistillItems]:
        """The test queries, where they have been scored."""
        return [self._items(Split.TEST, None)]

    def prediction(self) -> DistillItems:
        """Nothing is predicted."""
        raise ValueError("stage retriever_kl predicts nothing; search with models.headed_encoder.HeadedEncoder instead")

    def _items(self, split: Split, augmentation: Augmentation | None) -> DistillItems:
        items = DistillItems(self.world, self.plan, self.scores, split, augmentation)
        if not items.items:
            raise ValueError(
                f"no {split} question is closed, with gold answer and image, and has candidates of channel "
                f"{' or '.join(CHANNEL_OF.values())}; check the tables, and data.source.per_channel"
            )
        return items


def _can_teach(query: Query) -> bool:
    return query.answer_type is AnswerType.CLOSED and query.answer is not None and query.image is not None


def _alone(scores: CandidateScores, query_id: str) -> set[str]:
    """The documents that were scored alone with the query and its own image."""
    conditions = [score.condition for score in scores.of_query(query_id)]
    return {c.evidence_ids[0] for c in conditions if len(c.evidence_ids) == 1 and c.image is ImageShown.OWN}
