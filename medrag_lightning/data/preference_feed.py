"""Preference pairs as training and validation samples: both sides' evidence and images opened."""

from __future__ import annotations

from typing import Any

from medrag_lightning.data.feeds import World
from medrag_lightning.data.preference_plan import PreferencePlan


class PreferenceFeed:
    """The pairs that the plan's folder holds; they are built from the score table where they are missing."""

    def __init__(self, world: World, plan: PreferencePlan) -> None:
        self.world, self.plan = world, plan

    def training(self) -> Any:
        """The pairs of training questions."""
        raise ValueError("preference pairs are not served yet")

    def validation(self, alone: bool) -> list[Any]:
        """The pairs of validation questions."""
        raise ValueError("preference pairs are not served yet")

    def test(self) -> list[Any]:
        """Nothing is tested on pairs."""
        raise ValueError("preference pairs are for training; test the tuned reader with stage reader_raft")

    def prediction(self) -> Any:
        """Nothing is predicted on pairs."""
        raise ValueError("preference pairs are for training; predict with stage reader_raft")
