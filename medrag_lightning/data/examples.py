"""A split of queries as a torch data set: records and open images, never tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch.utils.data import Dataset

from medrag_lightning.artifacts import counter_rng
from medrag_lightning.batches import EmbedItem, Example
from medrag_lightning.data.augment import Augmentation
from medrag_lightning.data.evidence import EvidencePicker
from medrag_lightning.data.sampler import SampleKey
from medrag_lightning.data.substitution import substituted
from medrag_lightning.interfaces import OpenImage
from medrag_lightning.records import Candidate, Document, Query, Regime


class TrainExamples(Dataset[list[Example]]):
    """Training samples: query n, draw j stands at n * samples_per_query + j."""

    def __init__(
        self,
        queries: Sequence[Query],
        picker: EvidencePicker,
        open_image: OpenImage,
        augmentation: Augmentation | None,
        seed: int,
    ) -> None:
        self.queries, self.picker, self.open_image = list(queries), picker, open_image
        self.augmentation, self.seed = augmentation, seed

    def __len__(self) -> int:
        return len(self.queries) * self.picker.mixture.samples_per_query

    def __getitem__(self, keys: Sequence[SampleKey]) -> list[Example]:
        return [self._one(key) for key in keys]

    def _one(self, key: SampleKey) -> Example:
        place, sample = divmod(key.place, self.picker.mixture.samples_per_query)
        query = self.queries[place]
        example = example_of(query, Regime.RETRIEVED, self.picker.for_training(query, sample, key.epoch), self.open_image)
        if words := self.picker.mixture.substitute:
            rng = counter_rng(self.seed, "substitution", key.epoch, query.id, sample)
            example = substituted(example, words, rng)
        if self.augmentation is None or example.query_image is None:
            return example
        rng = counter_rng(self.seed, "augmentation", key.epoch, query.id, sample)
        changed = self.augmentation.apply(example.query_image, rng)
        return replace(example, query_image=changed)


class EvalExamples(Dataset[list[Example]]):
    """The queries of a split under one evidence regime; `system` names the retriever where several are compared."""

    def __init__(
        self, queries: Sequence[Query], picker: EvidencePicker, regime: Regime, open_image: OpenImage, system: str = ""
    ) -> None:
        self.queries, self.picker, self.regime, self.open_image = list(queries), picker, regime, open_image
        self.system = system

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, keys: Sequence[SampleKey]) -> list[Example]:
        chosen = [self.queries[key.place] for key in keys]
        found = [self.picker.for_regime(query, self.regime) for query in chosen]
        return [example_of(q, self.regime, c, self.open_image, self.system) for q, c in zip(chosen, found, strict=True)]


class CorpusItems(Dataset[list[EmbedItem]]):
    """The corpus, to be embedded."""

    def __init__(self, documents: Sequence[Document], open_image: OpenImage) -> None:
        self.documents, self.open_image = list(documents), open_image

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, keys: Sequence[SampleKey]) -> list[EmbedItem]:
        return [self._one(key.place) for key in keys]

    def _one(self, index: int) -> EmbedItem:
        document = self.documents[index]
        return EmbedItem(index, document.text, None if document.image is None else self.open_image(document.image))


def example_of(
    query: Query, regime: Regime, candidates: tuple[Candidate, ...], open_image: OpenImage, system: str = ""
) -> Example:
    """The example of a query with its images and those of its candidates opened."""
    images = tuple(None if c.document.image is None else open_image(c.document.image) for c in candidates)
    return Example(query, regime, candidates, None if query.image is None else open_image(query.image), images, system)
