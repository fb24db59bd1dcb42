"""What the stage `score` scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medrag_lightning.data.feeds import World


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class ScoringPlan:
    """What the stage `score` scores."""


class ScoringFeed:
    """What the stage `score` scores."""

    def __init__(self, world: World, plan: ScoringPlan) -> None:
        self.world, self.plan = world, plan

    def training(self) -> Any:
        """What the stage `score` scores."""
        raise NotImplementedError

    def validation(self, alone: bool) -> list[Any]:
        """What the stage `score` scores."""
        raise NotImplementedError

    def test(self) -> list[Any]:
        """What the stage `score` scores."""
        raise NotImplementedError

    def prediction(self) -> Any:
        """What the stage `score` scores."""
        raise NotImplementedError
