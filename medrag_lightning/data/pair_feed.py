"""Image-text pairs of the corpus, for a stage that trains a retriever on them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from medrag_lightning.artifacts import counter_rng, fingerprint
from medrag_lightning.batches import Pair, StatedFacts, pixel_sha256
from medrag_lightning.data.augment import Augmentation
from medrag_lightning.data.factual_positives import FactualPositives
from medrag_lightning.data.feeds import World
from medrag_lightning.data.pair_split import KeyedDocument as KeyedDocument
from medrag_lightning.data.pair_split import PairPlan as PairPlan
from medrag_lightning.data.pair_split import split_pairs
from medrag_lightning.data.sampler import SampleKey
from medrag_lightning.interfaces import OpenImage
from medrag_lightning.records import Document, ImageRef, Split

logger = logging.getLogger(__name__)
_pixels: dict[tuple[str, int], str] = {}  # of image files as they were at a time: three loaders ask for the same ones


class PairFeed:
    """The documents that have an image and a text, split as the plan says."""

    def __init__(self, world: World, plan: PairPlan, augmentation: Augmentation | None) -> None:
        self.world, self.plan, self.augmentation = world, plan, augmentation
        chosen = _chosen(world.documents, plan)
        stated = None if plan.factual is None else plan.factual.stated(chosen)
        facts = [None] * len(chosen) if stated is None or plan.factual is None else plan.factual.numbered(stated)
        pairs = [_keyed(document, world.open_image, told) for document, told in zip(chosen, facts, strict=True)]
        self.splits = split_pairs(pairs, plan)
        self._stated = {} if stated is None else {document.id: one for document, one in zip(chosen, stated, strict=True)}
        texts = {pair.text_key for pair in self.splits[Split.TRAIN]}
        seen = sum(pair.text_key in texts for pair in self.splits[Split.TEST])
        counts = ", ".join(f"{len(members)} {split}" for split, members in self.splits.items())
        logger.info("image-text pairs: %s; the texts of %d test pairs also stand in training pairs", counts, seen)
        self._tell_sizes()

    def training(self) -> PairItems:
        """The pairs to learn from, augmented, some of them with the text of a factual twin."""
        items = self._items(Split.TRAIN, self.augmentation)
        if (plan := self.plan.factual) is not None:
            documents = [pair.document for pair in items.pairs]
            items.swap_share = plan.swap_share
            items.twins = plan.positives(documents, [self._stated[document.id] for document in documents])
        return items

    def validation(self, alone: bool) -> list[PairItems]:
        """The pairs held out for validation."""
        return [self._items(Split.VAL, None)]

    def test(self) -> list[PairItems]:
        """The pairs held out for the test."""
        return [self._items(Split.TEST, None)]

    def prediction(self) -> Any:
        """Nothing is predicted."""
        raise ValueError("a stage that trains a retriever predicts nothing; embed a corpus with the stage embed")

    def _tell_sizes(self) -> None:
        """Warns where fewer pairs are held out than a size asks for, because whole groups did not fit."""
        modalities = {pair.document.modality for pairs in self.splits.values() for pair in pairs}
        kinds = len(modalities) if self.plan.per_modality else 1
        for name, split, size in (("val", Split.VAL, self.plan.val_size), ("test", Split.TEST, self.plan.test_size)):
            if size is not None and (held := len(self.splits[split])) < size * kinds:
                asked = f"{size} of each of {kinds} modalities" if self.plan.per_modality else str(size)
                logger.warning("pairs: %s_size asks for %s, %d are held out: the groups left did not fit", name, asked, held)

    def _items(self, split: Split, augmentation: Augmentation | None) -> PairItems:
        return PairItems(self.splits[split], self.world.open_image, augmentation, self.plan.max_text_chars, self.world.seed)


class PairItems(Dataset[list[Pair]]):
    """Pairs with their images opened; `swap_share` of the samples have the text of one of their `twins`."""

    swap_share = 0.0
    twins: FactualPositives | None = None

    def __init__(
        self,
        pairs: Sequence[KeyedDocument],
        open_image: OpenImage,
        augmentation: Augmentation | None,
        max_text_chars: int,
        seed: int,
    ) -> None:
        self.pairs, self.open_image, self.augmentation = list(pairs), open_image, augmentation
        self.max_text_chars, self.seed = max_text_chars, seed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, keys: Sequence[SampleKey]) -> list[Pair]:
        return [self._one(key) for key in keys]

    def _one(self, key: SampleKey) -> Pair:
        found = self.pairs[key.place]
        image = self.open_image(_image_of(found.document))
        if self.augmentation is not None:
            rng = counter_rng(self.seed, "pair augmentation", key.epoch, found.document.id)
            image = self.augmentation.apply(image, rng)
        says = self._says(key, found)
        document = replace(found.document, text=says.document.text[: self.max_text_chars])
        return Pair(document, image, says.text_key, found.image_key, says.facts)

    def _says(self, key: SampleKey, found: KeyedDocument) -> KeyedDocument:
        """Whose text stands with the image: its own, or that of another pair that states nearly the same."""
        if self.twins is None or not self.swap_share:
            return found
        rng = counter_rng(self.seed, "factual twin", key.epoch, found.document.id)
        twin = self.twins.draw(key.place, rng) if rng.random() < self.swap_share else None
        return found if twin is None else self.pairs[twin]


def _chosen(documents: Sequence[Document], plan: PairPlan) -> list[Document]:
    """The documents that are dealt: those with an image and words, of the plan's modalities unless all are dealt at once."""
    pairs = [document for document in documents if document.image is not None and document.text.strip()]
    if not pairs:
        raise ValueError(f"pairs: none of the corpus's {len(documents)} documents has both an image and a text")
    known = {document.modality for document in pairs}
    for name in plan.modalities:
        if name not in known:
            told = ", ".join(sorted(map(repr, known)))
            raise ValueError(f"pairs: no image-text pair has the modality {name!r}; there are {told}")
    chosen = [document for document in pairs if not plan.modalities or document.modality in plan.modalities]
    return pairs if plan.per_modality else chosen


def _keyed(document: Document, open_image: OpenImage, facts: StatedFacts | None) -> KeyedDocument:
    image = _image_of(document)
    at = (str(image), Path(image.path).stat().st_mtime_ns)
    if at not in _pixels:
        _pixels[at] = pixel_sha256(open_image(image))
    return KeyedDocument(document, _pixels[at], fingerprint(" ".join(document.text.lower().split())), facts)


def _image_of(document: Document) -> ImageRef:
    assert document.image is not None
    return document.image
