"""Preference pairs as training and validation samples: both sides' evidence and images opened."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch.utils.data import Dataset

from medrag_lightning.batches import Example, PreferenceExample
from medrag_lightning.data.conditions import ConditionExamples
from medrag_lightning.data.feeds import World
from medrag_lightning.data.pair_building import build_or_read
from medrag_lightning.data.preference_plan import PreferencePlan
from medrag_lightning.data.sampler import SampleKey
from medrag_lightning.preference_files import PreferenceSet
from medrag_lightning.records import Condition, Preference, Query, Split


class PreferenceItems(Dataset[list[PreferenceExample]]):
    """Pairs in groups: a sample is all pairs of one query and one set of evidence, so that what they show alike is read once.

    A batch of `batch_size` samples therefore holds at least as many pairs. Groups stand in the order of their first pair.

    Args:
        pairs: the pairs.
        queries: every query whose image may be shown, by id.
        examples: opens what a condition shows.
    """

    def __init__(self, pairs: Sequence[Preference], queries: dict[str, Query], examples: ConditionExamples) -> None:
        self.pairs, self.queries, self.examples = list(pairs), queries, examples
        groups: dict[tuple[str, tuple[str, ...]], list[Preference]] = {}
        for pair in self.pairs:
            groups.setdefault((pair.query_id, pair.chosen.condition.evidence_ids), []).append(pair)
        self.groups = list(groups.values())

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, keys: Sequence[SampleKey]) -> list[PreferenceExample]:
        return self._opened([pair for key in keys for pair in self.groups[key.place]])

    def of_each_kind(self, count: int) -> list[PreferenceExample]:
        """The first `count` pairs of each kind, opened, kind by kind."""
        kinds = dict.fromkeys(pair.kind for pair in self.pairs)
        return self._opened([pair for kind in kinds for pair in [p for p in self.pairs if p.kind is kind][:count]])

    def _opened(self, pairs: Sequence[Preference]) -> list[PreferenceExample]:
        """Each image is opened once, and sides that show the same are the same object."""
        sides = dict.fromkeys((pair.query_id, side.condition) for pair in pairs for side in (pair.chosen, pair.rejected))
        built = self.examples.build([(self._query(name), condition) for name, condition in sides])
        shown: dict[tuple[str, Condition], Example] = dict(zip(sides, built, strict=True))
        return [
            PreferenceExample(pair, *(shown[pair.query_id, side.condition] for side in (pair.chosen, pair.rejected)))
            for pair in pairs
        ]

    def _query(self, name: str) -> Query:
        if name not in self.queries:
            raise ValueError(
                f"preference pairs are about query {name!r}, which data.tables does not have; give the tables that they were "
                "built with, or build them anew in another folder (--data.init_args.preference.folder)"
            )
        return self.queries[name]


class PreferenceFeed:
    """The pairs that the plan's folder holds; they are built from the score table where they are missing."""

    def __init__(self, world: World, plan: PreferencePlan) -> None:
        self.world, self.plan = world, plan

    @cached_property
    def found(self) -> PreferenceSet:
        """The pairs of this world and plan, of all splits: built, or read and checked, once."""
        return build_or_read(self.world, self.plan)

    def training(self) -> PreferenceItems:
        """The pairs of training questions; ValueError where there are none."""
        return self._items(Split.TRAIN)

    def validation(self, alone: bool) -> list[PreferenceItems]:
        """The pairs of validation questions; nothing where the plan leaves that split out."""
        return [self._items(Split.VAL)] if str(Split.VAL) in self.plan.splits else []

    def test(self) -> list[Any]:
        """Nothing is tested on pairs."""
        raise ValueError("preference pairs are for training; test the tuned reader with stage reader_raft")

    def prediction(self) -> Any:
        """Nothing is predicted on pairs."""
        raise ValueError("preference pairs are for training; predict with stage reader_raft")

    def _items(self, split: Split) -> PreferenceItems:
        found = self.found
        if not found.pairs.get(split):
            if self.plan.rules == "given":
                there = ", ".join(f"{len(pairs)} {one}" for one, pairs in found.pairs.items()) or "none"
                raise ValueError(
                    f"{self.plan.folder}: there is no preference pair of split {str(split)!r} to tune on (pairs of the splits: "
                    f"{there}); have some made, or leave the split out of data.preference.splits"
                )
            fell = json.dumps(found.statistics.get(str(split), found.statistics))
            raise ValueError(
                f"{self.plan.folder}: there is no preference pair of split {str(split)!r} to tune on. How the questions fell: "
                f"{fell}. A pair needs a question whose answer changes with its image or its evidence: "
                "score more of them, or more evidence sets each (data.knowledge.draws), with a reader that has not learnt "
                "these questions (data.train_part); or leave the split out of data.preference.splits."
            )
        queries = {query.id: query for every in Split for query in self.world.queries[every]}
        documents = {document.id: document for document in self.world.documents}
        return PreferenceItems(found.pairs[split], queries, ConditionExamples(queries, documents, self.world.open_image))
