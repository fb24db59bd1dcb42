"""Questions without evidence, for a stage that writes searches: with searches to learn, or to be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from medrag_lightning.artifacts import counter_rng, fingerprint
from medrag_lightning.batches import Example
from medrag_lightning.data.augment import Augmentation
from medrag_lightning.data.examples import example_of
from medrag_lightning.data.feeds import World
from medrag_lightning.data.sampler import SampleKey
from medrag_lightning.data.search_plan import SearchPlan, learned_from
from medrag_lightning.data.searching import check_found
from medrag_lightning.records import Document, Query, Regime, Retrieved, Split
from medrag_lightning.search_files import partly_written


class SearchItems(Dataset[list[Example]]):
    """Questions, each with its image and no evidence. `Query.searches` is what to learn, or None.

    Args:
        world: opens images and searches.
        queries: the questions; one may stand here several times.
        augmentation: changes of images; None for none.
    """

    def __init__(self, world: World, queries: Sequence[Query], augmentation: Augmentation | None = None) -> None:
        self.world, self.queries, self.augmentation = world, list(queries), augmentation

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, keys: Sequence[SampleKey]) -> list[Example]:
        return [self._one(key) for key in keys]

    def found(self, queries: Sequence[Query]) -> list[Retrieved]:
        """What the data's source finds with the searches of `queries`, held to the leak rule."""
        found = self.world.source.retrieve(list(queries)) if queries else []
        for query, one in zip(queries, found, strict=True):
            check_found(query, one)
        return found

    def documents(self) -> list[Document]:
        """The evidence corpus."""
        return self.world.documents

    def _one(self, key: SampleKey) -> Example:
        query = self.queries[key.place]
        example = example_of(query, Regime.NONE, (), self.world.open_image)
        if self.augmentation is None or example.query_image is None:
            return example
        rng = counter_rng(self.world.seed, "augmentation", key.epoch, query.id, key.place)
        return replace(example, query_image=self.augmentation.apply(example.query_image, rng))


class WrittenItems(SearchItems):
    """The questions whose searches are still to be written; `callbacks.SearchTableWriter` reads the attributes.

    Attributes:
        folder: of the table.
        wanted: every question that the table is to hold, in its order.
        questions: fingerprint of what a generator sees of them.
        missing: number of questions that were not there.
    """

    def __init__(self, world: World, wanted: Sequence[Query], folder: Path) -> None:
        self.folder, self.wanted = folder, list(wanted)
        self.questions = fingerprint([_seen(query) for query in self.wanted])
        there = {row.query_id for row in partly_written(folder)}
        missing = [query for query in self.wanted if query.id not in there]
        self.missing = len(missing)
        again = self.wanted[: max(0, world.processes - len(missing))]  # for each process something, so that its hooks run
        super().__init__(world, [*missing, *again])


class SearchFeed:
    """What stage query_generator is served.

    Args:
        world: its `source` must be loaded.
        plan: where searches lie.
        augmentation: changes of training images; None for none.
    """

    def __init__(self, world: World, plan: SearchPlan, augmentation: Augmentation | None) -> None:
        self.world, self.plan, self.augmentation = world, plan, augmentation

    def training(self) -> SearchItems:
        """Each training question once for each of its targets."""
        return SearchItems(self.world, learned_from(self.world.queries, self.plan, Split.TRAIN), self.augmentation)

    def validation(self, alone: bool) -> list[SearchItems]:
        """The targets of validation questions; and questions to write searches for: all of them in the verb `validate`."""
        learned = learned_from(self.world.queries, self.plan, Split.VAL)
        first = {query.id: query.searches for query in reversed(learned)}
        asked = [replace(query, searches=first.get(query.id)) for query in self.world.queries[Split.VAL]]
        if not alone and len(asked) > self.plan.decoded:
            order = counter_rng(self.world.seed, "decoded").permutation(len(asked))[: self.plan.decoded]
            asked = [asked[place] for place in sorted(order.tolist())]
        return [SearchItems(self.world, learned), SearchItems(self.world, asked)]

    def test(self) -> list[SearchItems]:
        """The test questions."""
        asked = [replace(query, searches=None) for query in self.world.queries[Split.TEST]]
        return [SearchItems(self.world, asked)]

    def prediction(self) -> WrittenItems:
        """The questions of all splits whose searches the table lacks."""
        wanted = [replace(query, searches=None) for split in Split for query in self.world.queries[split]]
        return WrittenItems(self.world, wanted, Path(self.plan.written))


def _seen(query: Query) -> list[Any]:
    """What a generator sees of a question."""
    before = [{"history": [list(turn) for turn in query.history]}] if query.history else []
    return [query.id, str(query.split), query.question, list(query.choices), _place(query), *before]


def _place(query: Query) -> list[str | int | None] | None:
    image = query.image
    return None if image is None else [Path(image.path).name, image.array, image.index]
