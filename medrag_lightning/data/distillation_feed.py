"""Queries with pools of scored candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medrag_lightning.data.augment import Augmentation
from medrag_lightning.data.feeds import World


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class DistillationPlan:
    """Queries with pools of scored candidates."""


class DistillationFeed:
    """Queries with pools of scored candidates."""

    def __init__(self, world: World, plan: DistillationPlan, augmentation: Augmentation | None) -> None:
        self.world, self.plan = world, plan

    def training(self) -> Any:
        """Queries with pools of scored candidates."""
        raise NotImplementedError

    def validation(self, alone: bool) -> list[Any]:
        """Queries with pools of scored candidates."""
        raise NotImplementedError

    def test(self) -> list[Any]:
        """Queries with pools of scored candidates."""
        raise NotImplementedError

    def prediction(self) -> Any:
        """Queries with pools of scored candidates."""
        raise NotImplementedError
