"""Image-text pairs of the corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medrag_lightning.data.augment import Augmentation
from medrag_lightning.data.feeds import World


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class PairPlan:
    """Image-text pairs of the corpus."""


class PairFeed:
    """Image-text pairs of the corpus."""

    def __init__(self, world: World, plan: PairPlan, augmentation: Augmentation | None) -> None:
        self.world, self.plan = world, plan

    def training(self) -> Any:
        """Image-text pairs of the corpus."""
        raise NotImplementedError

    def validation(self, alone: bool) -> list[Any]:
        """Image-text pairs of the corpus."""
        raise NotImplementedError

    def test(self) -> list[Any]:
        """Image-text pairs of the corpus."""
        raise NotImplementedError

    def prediction(self) -> Any:
        """Image-text pairs of the corpus."""
        raise NotImplementedError
