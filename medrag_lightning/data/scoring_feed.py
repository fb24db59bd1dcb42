"""What the stage `score` scores: packs of (query, condition) that the score table does not hold yet."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch.utils.data import Dataset

from medrag_lightning.batches import Example
from medrag_lightning.data.conditions import ConditionExamples, ConditionPlanner, Conditions
from medrag_lightning.data.feeds import World
from medrag_lightning.data.sampler import SampleKey
from medrag_lightning.records import AnswerType, Condition, Query, Split
from medrag_lightning.score_files import Key, condition_digest, documents_fingerprint, query_fingerprint, rows_there

logger = logging.getLogger(__name__)

Pair = tuple[Query, Condition]
SplitName = Literal["train", "val", "test"]
_COMPARED = 10_000  # neighbouring queries among which those with the same evidence are found; seconds


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class ScoringPlan:
    """What the stage `score` scores, and where the scores lie.

    Args:
        table: folder of the score table. What it holds is not computed again.
        splits: whose queries are scored. An open question without a gold answer has nothing to score and is left out.
        conditions: what each query is scored under.
        prompts_per_pack: prompts that a reader gets at once: those of queries with the same candidates, whole queries at a
            time, so that prefixes and images are shared (`packed`). A query with more prompts is a pack of its own. It takes
            the place of `eval_batch_size`.
    """

    table: str = "runs/scores"
    splits: tuple[SplitName, ...] = ("train",)
    conditions: Conditions = Conditions()  # noqa: RUF009  (frozen)
    prompts_per_pack: int = 64

    def __post_init__(self) -> None:
        if not self.splits or len(set(self.splits)) != len(self.splits):
            raise ValueError(f"scoring.splits must name some of train, val and test, each once; got {list(self.splits)}")
        if self.prompts_per_pack < 1:
            raise ValueError(f"scoring.prompts_per_pack must be at least 1, got {self.prompts_per_pack}")


class ScoringItems(Dataset[list[Example]]):
    """Packs of examples, one pack a batch; `callbacks.ScoreWriter` reads the attributes.

    Attributes:
        folder: of the score table.
        corpus: fingerprint of the documents.
        wanted: keys of every row that the plan asks for.
        missing: number of rows that the table lacks.
        query_sha256: `query_fingerprint` of each query that is scored.
    """

    batch_size = 1

    def __init__(self, packs: Sequence[Sequence[Pair]], examples: ConditionExamples, folder: Path, corpus: str) -> None:
        self.packs, self.examples, self.folder, self.corpus = [list(pack) for pack in packs], examples, folder, corpus
        self.wanted: list[Key] = [(query.id, condition_digest(condition)) for pack in packs for query, condition in pack]
        self.query_sha256 = {query.id: query_fingerprint(query) for pack in packs for query, _ in pack}
        self.missing = len(self.wanted)

    def leave_out(self, there: set[Key]) -> None:
        """Drops what is there already. The other rows stay in their packs, so that they come out as they would have."""
        packs = [[(q, c) for q, c in pack if (q.id, condition_digest(c)) not in there] for pack in self.packs]
        self.packs = [pack for pack in packs if pack]
        self.missing = sum(map(len, self.packs))

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, keys: Sequence[SampleKey]) -> list[Example]:
        return self.examples.build([pair for key in keys for pair in self.packs[key.place]])


class ScoringFeed:
    """What is missing from the score table, as packs that do not depend on the number of processes."""

    def __init__(self, world: World, plan: ScoringPlan) -> None:
        self.world, self.plan = world, plan

    def training(self) -> Any:
        """Nothing is trained."""
        raise ValueError("the scoring stage only predicts")

    def validation(self, alone: bool) -> list[Any]:
        """Nothing is evaluated."""
        raise ValueError("the scoring stage only predicts")

    def test(self) -> list[Any]:
        """Nothing is evaluated."""
        raise ValueError("the scoring stage only predicts")

    def prediction(self) -> ScoringItems:
        """The packs of what is missing, and an empty one for each process that would get none (so that its hooks run)."""
        queries = {query.id: query for split in Split for query in self.world.queries[split]}
        documents = {document.id: document for document in self.world.documents}
        examples = ConditionExamples(queries, documents, self.world.open_image)
        corpus = documents_fingerprint(self.world.documents)
        items = ScoringItems(packed(self._wanted(), self.plan.prompts_per_pack), examples, Path(self.plan.table), corpus)
        items.leave_out(self._there(items))
        items.packs += [[] for _ in range(self.world.processes - len(items.packs))]
        return items

    def _wanted(self) -> list[list[Pair]]:
        """The conditions of each query; ValueError for a kind of condition that no query has."""
        asked = [query for split in self.plan.splits for query in self.world.queries[Split(split)]]
        queries = [q for q in asked if q.answer_type is AnswerType.CLOSED or q.answer is not None]
        if not queries:
            raise ValueError(f"scoring.splits {list(self.plan.splits)}: none of {len(asked)} questions can be scored")
        if len(queries) < len(asked):
            logger.warning("%d open questions without a gold answer are not scored", len(asked) - len(queries))
        planner = ConditionPlanner(self.world, queries, self.plan.conditions)
        found = [planner.of(query) for query in queries]
        counts = Counter(kind for conditions in found for kind, _ in conditions)
        for kind in self.plan.conditions.kinds():
            if not counts[kind]:
                raise ValueError(
                    f"scoring.conditions: `{kind}` gives nothing for any of {len(queries)} queries (candidates need a "
                    "data.source, oracle and poisoned a generated world, changed images a query with an image); leave it out"
                )
        once = [dict.fromkeys(condition for _, condition in conditions) for conditions in found]
        return [[(query, condition) for condition in conditions] for query, conditions in zip(queries, once, strict=True)]

    def _there(self, items: ScoringItems) -> set[Key]:
        """The rows that the table holds; ValueError if one of the queries has changed since."""
        there: set[Key] = set()
        for key, sha256 in rows_there(items.folder):
            if items.query_sha256.get(key[0], sha256) != sha256:
                raise ValueError(
                    f"{items.folder}: query {key[0]!r} has changed since it was scored (question, choices, gold answer or "
                    "image); score into another folder (--data.init_args.scoring.table). Nothing was changed."
                )
            there.add(key)
        return there


def packed(of_query: Sequence[Sequence[Pair]], prompts_per_pack: int) -> list[list[Pair]]:
    """Queries that are shown the same evidence together, while they have at most `prompts_per_pack` prompts.

    What a reader computes of evidence it computes once a pack. So a pack begins with the first query left, and takes in, one
    by one, the query that has the most evidence in common with it (the first of equals), until that one has no room. No query
    is split. The packs depend on `of_query` alone; within one, queries stay in order.
    """
    packs: list[list[int]] = []
    for start in range(0, len(of_query), _COMPARED):
        some = of_query[start : start + _COMPARED]
        evidence = [list(dict.fromkeys(c.evidence_ids for _, c in pairs if c.evidence_ids)) for pairs in some]
        packs += [[start + i for i in pack] for pack in _together(evidence, list(map(len, some)), prompts_per_pack)]
    return [[pair for i in pack for pair in of_query[i]] for pack in packs]


def _together(evidence: Sequence[Sequence[tuple[str, ...]]], prompts: Sequence[int], limit: int) -> list[list[int]]:
    """Numbers of the queries of each pack; `evidence`: of each query, without repeats; `prompts`: how many each has."""
    shown_to: dict[tuple[str, ...], list[int]] = {}
    for number, of_one in enumerate(evidence):
        for shown in of_one:
            shown_to.setdefault(shown, []).append(number)
    sharing = {shown: np.array(numbers) for shown, numbers in shown_to.items()}
    left, common = np.ones(len(evidence), dtype=bool), np.zeros(len(evidence), dtype=np.int64)
    packs: list[list[int]] = []
    room, inside = 0, set[tuple[str, ...]]()
    for _ in evidence:
        chosen = int(np.where(left, common, -1).argmax())
        if prompts[chosen] > room or not packs:
            packs.append([])
            chosen, room, inside = int(left.argmax()), limit, set()
            common[:] = 0
        packs[-1].append(chosen)
        left[chosen], room = False, room - prompts[chosen]
        for shown in evidence[chosen]:
            if shown not in inside:
                inside.add(shown)
                common[sharing[shown]] += 1
    return [sorted(pack) for pack in packs]
