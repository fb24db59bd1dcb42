"""What a stage is fed: data sets of records for training, validation, test and prediction. One feed for each kind of stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from medrag_lightning.data.ablations import ablated
from medrag_lightning.data.augment import Augmentation
from medrag_lightning.data.evidence import EvidenceMixture, EvidencePicker
from medrag_lightning.data.examples import CorpusItems, EvalExamples, TrainExamples
from medrag_lightning.data.knowledge import KnowledgePlan
from medrag_lightning.data.noise import OWN, Found, NoisePlan, NoisyExamples, noisy_sets
from medrag_lightning.data.sampler import SampleKey
from medrag_lightning.interfaces import CandidateSource, OpenImage
from medrag_lightning.records import Document, Query, Regime, Retrieved, Split


class Items(Protocol):
    """A data set that is asked for a whole batch of samples at once.

    It may have an attribute `batch_size`, which in evaluation takes the place of the data module's own.
    """

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def __getitem__(self, keys: Sequence[SampleKey]) -> list[Any]:
        """The samples of a batch."""
        ...


@dataclass(frozen=True, slots=True)
class World:
    """Everything that the data module knows: queries, corpus, candidates, how images are opened, the number of processes.

    `predicted` are the questions that `predict` of a stage that reads goes through.
    """

    queries: Mapping[Split, list[Query]]
    documents: list[Document]
    retrieved: Mapping[str, Retrieved]
    of_rival: Mapping[str, Mapping[str, Retrieved]]
    open_image: OpenImage
    source: CandidateSource
    mixture: EvidenceMixture
    one_candidate_per_prompt: bool
    seed: int
    processes: int = 1
    rivals: Mapping[str, CandidateSource] = field(default_factory=dict)
    predicted: Split = Split.TEST
    knowledge: KnowledgePlan | None = None

    def picker(self, retrieved: Mapping[str, Retrieved] | None = None) -> EvidencePicker:
        """Picks evidence among `retrieved`; by default among what the main source found."""
        found = self.retrieved if retrieved is None else retrieved
        layout, seed = self.one_candidate_per_prompt, self.seed
        return EvidencePicker(self.documents, found, self.mixture, layout, seed, self.open_image)


class Feed(Protocol):
    """The data sets of one kind of stage; what a stage cannot do raises ValueError."""

    def training(self) -> Any:
        """Samples to train on."""
        ...

    def validation(self, alone: bool) -> list[Any]:
        """One data set a loader; `alone` in the verb `validate`, not within a fit."""
        ...

    def test(self) -> list[Any]:
        """One data set a loader."""
        ...

    def prediction(self) -> Any:
        """What `predict` goes through."""
        ...


AskAgain = Callable[[World, Sequence[Query], Found], Sequence[Items]]
"""From the queries of a split and the candidates of each system to data sets with another image or less evidence."""


class ReadingFeed:
    """Examples for a stage that reads: one data set a regime, one for each rival retriever, one of spoilt evidence for each
    system that a noise plan names, and what `ask_again` makes (`knowledge_sets.asked_again`, where the world has a plan).
    """

    def __init__(
        self,
        world: World,
        regimes: Sequence[Regime],
        augmentation: Augmentation | None,
        noise: NoisePlan | None = None,
        ask_again: AskAgain | None = None,
    ) -> None:
        self.world, self.regimes, self.augmentation, self.noise = world, list(regimes), augmentation, noise
        self.ask_again = ask_again

    def training(self) -> TrainExamples:
        """The training queries that have an answer."""
        queries = [query for query in self.world.queries[Split.TRAIN] if query.answer is not None]
        if not queries:
            raise ValueError("no training question has an answer; check the tables' splits")
        return TrainExamples(queries, self.world.picker(), self.world.open_image, self.augmentation, self.world.seed)

    def validation(self, alone: bool) -> list[Items]:
        """With retrieved evidence; in the verb `validate` with that of every regime, spoilt, and asked again (rivals are for
        the test).
        """
        if not alone:
            return [self._examples(Split.VAL, Regime.RETRIEVED)]
        own = {OWN: self.world.retrieved}
        regimes = [self._examples(Split.VAL, regime) for regime in self.regimes]
        return [*regimes, *self._noisy(Split.VAL, own), *self._again(Split.VAL, own)]

    def test(self) -> list[Items]:
        """The regimes, the rivals and the knowledge ablations, then what is spoilt, then what is asked again."""
        queries, open_image = self.world.queries[Split.TEST], self.world.open_image
        rivals = [
            EvalExamples(queries, self.world.picker(found), Regime.RETRIEVED, open_image, name)
            for name, found in {**self.world.of_rival, **self._ablated()}.items()
        ]
        found = {OWN: self.world.retrieved, **self.world.of_rival}
        regimes = [self._examples(Split.TEST, regime) for regime in self.regimes]
        return [*regimes, *rivals, *self._noisy(Split.TEST, found), *self._again(Split.TEST, found)]

    def prediction(self) -> EvalExamples:
        """The queries of the predicted split (test, unless the stage wants others) with their retrieved evidence."""
        return self._examples(self.world.predicted, Regime.RETRIEVED)

    def _ablated(self) -> Mapping[str, Mapping[str, Retrieved]]:
        """The run's own candidates without parts of the corpus, as the world's plan names them."""
        plan = self.world.knowledge
        return ablated(self.world.retrieved, self.world.documents, plan.leave_out) if plan is not None else {}

    def _again(self, split: Split, found: Found) -> Sequence[Items]:
        return [] if self.ask_again is None else self.ask_again(self.world, self.world.queries[split], found)

    def _noisy(self, split: Split, found: Found) -> list[NoisyExamples]:
        if self.noise is None:
            return []
        queries, sources = self.world.queries[split], {OWN: self.world.source, **self.world.rivals}
        return noisy_sets(self.noise, queries, found, self.world.picker(), self.world.open_image, sources)

    def _examples(self, split: Split, regime: Regime) -> EvalExamples:
        queries = self.world.queries[split]
        if regime in (Regime.ORACLE, Regime.POISONED):
            queries = [q for q in queries if (q.relevant_ids if regime is Regime.ORACLE else q.poison_ids)]
            if not queries:
                raise ValueError(f"regime {regime!s} needs a generated world that knows such documents; {split} has none")
        return EvalExamples(queries, self.world.picker(), regime, self.world.open_image)


class CorpusFeed:
    """The corpus, as lists of EmbedItem, for a stage that embeds."""

    def __init__(self, world: World) -> None:
        self.world = world

    def training(self) -> CorpusItems:
        """Nothing is trained."""
        raise ValueError("the embedding stage only predicts")

    def validation(self, alone: bool) -> list[CorpusItems]:
        """Nothing is evaluated."""
        raise ValueError("the embedding stage only predicts")

    def test(self) -> list[CorpusItems]:
        """Nothing is evaluated."""
        raise ValueError("the embedding stage only predicts")

    def prediction(self) -> CorpusItems:
        """Every document."""
        return CorpusItems(self.world.documents, self.world.open_image)
