"""Questions that a test asks again: with another image, or with a part of the evidence (HeteroRAG's MD, KUD and KID; H26)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from torch.utils.data import Dataset

from medrag_lightning.batches import Example
from medrag_lightning.data.conditions import ConditionExamples
from medrag_lightning.data.counter_images import CounterImages
from medrag_lightning.data.examples import example_of
from medrag_lightning.data.feeds import World
from medrag_lightning.data.noise import OWN, Found
from medrag_lightning.data.sampler import SampleKey
from medrag_lightning.interfaces import OpenImage
from medrag_lightning.records import Candidate, Condition, Knowledge, Query, Regime, Variant, knowledge_of

logger = logging.getLogger(__name__)

SHOWN = {Variant.WITHOUT_DOCUMENTS: Knowledge.REPORTS, Variant.WITHOUT_REPORTS: Knowledge.DOCUMENTS}
"""The kind of evidence that is left where the other is taken away."""
WHY = {
    Variant.OTHER_IMAGE: "they have no image, no evidence, or no other image is legal",
    Variant.WITHOUT_REPORTS: "no text was retrieved for them, so nothing would be left",
    Variant.WITHOUT_DOCUMENTS: "no image-report pair was retrieved for them, so nothing would be left",
}


class AskedAgain(Dataset[list[Example]]):
    """Every question again under each `Variant` that it allows, question by question, so that a batch shares images.

    What is left of the evidence keeps its order, scores and channels, so that fusion and steering treat it as before. Where
    only one kind was retrieved, the prompt with that kind alone is the ordinary one: it is asked all the same, so that each
    source's figures are of all questions that have it. With another image and no evidence, no system has a part in the answer:
    it is asked once, as that of regime ``none``.

    Args:
        world: queries, corpus and `KnowledgePlan`.
        queries: of the split.
        found: the ordinary candidates of the systems that are asked again.
        images: tells the other image of each query.
    """

    def __init__(self, world: World, queries: Sequence[Query], found: Found, images: CounterImages) -> None:
        self.found, self.open_image = found, world.open_image
        told = {query.id: images.of(query) for query in queries if query.image is not None}
        self.other = {name: condition for name, condition in told.items() if condition is not None}
        every = {query.id: query for mine in world.queries.values() for query in mine}
        self._conditions = ConditionExamples(every, {d.id: d for d in world.documents}, world.open_image)
        self.items = [(query, *asked) for query in queries for asked in self._asked(query)]
        _tell_left_out(self.items, list(found), len(queries))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, keys: Sequence[SampleKey]) -> list[Example]:
        once, other = cache(self.open_image), cache(self._other_image)  # they come again with every variant
        return [self._one(*self.items[key.place], once, other) for key in keys]

    def evidence(self, query: Query, system: str, variant: Variant) -> tuple[Candidate, ...]:
        """What `query` is shown of a system's candidates."""
        if variant is Variant.OTHER_IMAGE_ALONE:
            return ()
        candidates = self.found[system][query.id].candidates
        kind = SHOWN.get(variant)
        return candidates if kind is None else tuple(c for c in candidates if knowledge_of(c.document) is kind)

    def _asked(self, query: Query) -> list[tuple[str, Variant]]:
        """Systems and variants of a query, in order; the one without evidence is the last."""
        asked = [
            (system, variant)
            for system in self.found
            for variant in WHY
            if (variant is not Variant.OTHER_IMAGE or query.id in self.other) and self.evidence(query, system, variant)
        ]
        exchanged = any(variant is Variant.OTHER_IMAGE for _, variant in asked)
        return [*asked, (OWN, Variant.OTHER_IMAGE_ALONE)] if exchanged else asked

    def _one(self, query: Query, system: str, variant: Variant, open_image: OpenImage, other: Any) -> Example:
        regime = Regime.NONE if variant is Variant.OTHER_IMAGE_ALONE else Regime.RETRIEVED
        shown, name = self.evidence(query, system, variant), "" if system == OWN else system
        if variant in SHOWN:
            return replace(example_of(query, regime, shown, open_image, name), variant=variant)
        blind = example_of(replace(query, image=None), regime, shown, open_image, name)
        return replace(blind, query=query, query_image=other(query), variant=variant)

    def _other_image(self, query: Query) -> Any:
        condition: Condition = self.other[query.id]
        return self._conditions.build([(query, condition)])[0].query_image


def asked_again(world: World, queries: Sequence[Query], found: Found) -> list[AskedAgain]:
    """The data set of all systems in `found` that the world's plan names, as a list; empty where there is nothing to ask."""
    named = () if world.knowledge is None else world.knowledge.systems
    mine = {system: retrieved for system, retrieved in found.items() if system in named}
    if not mine or not queries:
        return []
    items = AskedAgain(world, queries, mine, CounterImages(world, queries))
    return [items] if len(items) else []


def _tell_left_out(items: Sequence[tuple[Query, str, Variant]], systems: Sequence[str], queries: int) -> None:
    counts: Mapping[tuple[str, Variant], int] = {
        (system, variant): sum(1 for _, *asked in items if asked == [system, variant]) for system in systems for variant in WHY
    }
    for (system, variant), count in counts.items():
        if count < queries:
            told = (variant, system, queries - count, queries, WHY[variant])
            logger.warning("knowledge %s of %s: %d of %d queries are left out: %s", *told)
