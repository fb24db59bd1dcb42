"""Which feed a kind of stage is served by."""

from __future__ import annotations

from typing import Protocol

from medrag_lightning.data.augment import Augmentation
from medrag_lightning.data.candidate_feed import CandidateFeed
from medrag_lightning.data.distillation_feed import DistillationFeed, DistillationPlan
from medrag_lightning.data.feeds import CorpusFeed, Feed, ReadingFeed, World
from medrag_lightning.data.fusion_feed import FusionFeed, FusionPlan
from medrag_lightning.data.knowledge_sets import asked_again
from medrag_lightning.data.noise import NoisePlan
from medrag_lightning.data.pair_feed import PairFeed, PairPlan
from medrag_lightning.data.preference_feed import PreferenceFeed
from medrag_lightning.data.preference_plan import PreferencePlan
from medrag_lightning.data.scoring_feed import ScoringFeed, ScoringPlan
from medrag_lightning.data.search_feed import SearchFeed
from medrag_lightning.data.search_plan import SearchPlan
from medrag_lightning.data.trace_feed import TraceFeed
from medrag_lightning.records import Regime


class Plans(Protocol):
    """The settings of the data module that feeds are made of."""

    regimes: list[Regime]
    augmentation: Augmentation | None
    noise: NoisePlan | None
    scoring: ScoringPlan | None
    pairs: PairPlan | None
    distillation: DistillationPlan | None
    fusion: FusionPlan | None
    preference: PreferencePlan | None
    searches: SearchPlan | None


def feed_of(kind: str, world: World, plans: Plans) -> Feed:
    """The feed of a stage whose `feed` is `kind`."""
    if kind == "reading":
        return ReadingFeed(world, plans.regimes, plans.augmentation, plans.noise, asked_again)
    if kind == "corpus":
        return CorpusFeed(world)
    if kind == "scoring":
        return ScoringFeed(world, plans.scoring or ScoringPlan())
    if kind == "pairs":
        return PairFeed(world, plans.pairs or PairPlan(), plans.augmentation)
    if kind == "fusion":
        return FusionFeed(world, plans.fusion or FusionPlan())
    if kind == "candidates":
        return CandidateFeed(world, plans.fusion or FusionPlan())
    if kind == "preference":
        return PreferenceFeed(world, plans.preference or PreferencePlan())
    if kind == "searches":
        return SearchFeed(world, plans.searches or SearchPlan(), plans.augmentation)
    if kind == "traces":
        reading = ReadingFeed(world, plans.regimes, plans.augmentation, plans.noise, asked_again)
        return TraceFeed(world, reading, plans.augmentation)
    return DistillationFeed(world, plans.distillation or DistillationPlan(), plans.augmentation)
