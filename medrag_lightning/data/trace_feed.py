"""Examples with traces to learn, and examples with their retrieved evidence to write traces for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch.utils.data import Dataset

from medrag_lightning.artifacts import counter_rng
from medrag_lightning.batches import Example
from medrag_lightning.data.augment import Augmentation
from medrag_lightning.data.examples import EvalExamples, example_of
from medrag_lightning.data.feeds import Items, ReadingFeed, World
from medrag_lightning.data.sampler import SampleKey
from medrag_lightning.data.trace_targets import TracedQuery, traced_queries
from medrag_lightning.records import Regime, Split


class TraceItems(Dataset[list[Example]]):
    """Questions with the evidence of their traces, numbered as these number it.

    Args:
        world: opens images.
        traced: the questions.
        augmentation: changes of the questions' images; None for none.
    """

    def __init__(self, world: World, traced: Sequence[TracedQuery], augmentation: Augmentation | None = None) -> None:
        self.world, self.traced, self.augmentation = world, list(traced), augmentation

    def __len__(self) -> int:
        return len(self.traced)

    def __getitem__(self, keys: Sequence[SampleKey]) -> list[Example]:
        return [self._one(key) for key in keys]

    def _one(self, key: SampleKey) -> Example:
        one = self.traced[key.place]
        example = replace(example_of(one.query, Regime.RETRIEVED, one.candidates, self.world.open_image), trace=one.trace)
        if self.augmentation is None or example.query_image is None:
            return example
        rng = counter_rng(self.world.seed, "augmentation", key.epoch, one.query.id, key.place)
        return replace(example, query_image=self.augmentation.apply(example.query_image, rng))


class TraceFeed:
    """What stage reader_trace is served; tested as a stage that reads is, regimes, rivals and noise.

    Args:
        world: its mixture names the traces.
        reading: serves the test and `predict`.
        augmentation: changes of training images; None for none.
    """

    def __init__(self, world: World, reading: ReadingFeed, augmentation: Augmentation | None) -> None:
        self.world, self.reading, self.augmentation = world, reading, augmentation

    def training(self) -> TraceItems:
        """Each training question that has a trace, once an epoch."""
        return TraceItems(self.world, self._traced(Split.TRAIN), self.augmentation)

    def validation(self, alone: bool) -> list[TraceItems | EvalExamples]:
        """The traces of validation questions; and questions to write traces for: all of them in the verb `validate`."""
        asked, targets = self.world.queries[Split.VAL], self.world.mixture.traces
        learnt = TraceItems(self.world, self._traced(Split.VAL))
        assert targets is not None, "or there would be nothing learnt"
        if not alone and len(asked) > targets.decoded:
            order = counter_rng(self.world.seed, "decoded").permutation(len(asked))[: targets.decoded]
            asked = [asked[place] for place in sorted(order.tolist())]
        return [learnt, EvalExamples(asked, self.world.picker(), Regime.RETRIEVED, self.world.open_image)]

    def test(self) -> list[Items]:
        """The regimes, the rivals, the knowledge ablations, and what is spoilt."""
        return self.reading.test()

    def prediction(self) -> EvalExamples:
        """The test questions with their retrieved evidence."""
        return self.reading.prediction()

    def _traced(self, split: Split) -> list[TracedQuery]:
        return traced_queries(self.world.queries, self.world.documents, self.world.mixture.traces, split)
