"""How traces are written by a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medrag_lightning.interfaces import Teacher

SplitName = Literal["train", "val"]
Gold = Literal["blind", "aware"]


@dataclass(frozen=True, slots=True)
class TracePlan:
    """Who writes traces, of which questions, and where they lie.

    Args:
        teacher: writes.
        folder: where everything lies: the table (`trace_files`), the teacher's replies, statistics, samples.
        gold: ``blind``: the teacher never learns the right answer. ``aware``: it is told for the last step, as published: its
            traces explain an answer in hindsight. Every row and the manifest say which.
        splits: whose questions get traces.
        batch_size: questions that the teacher is given at once; an interruption loses no more than these.
        most_attempts: times that a step is asked again whose call failed or whose reply cannot be used; then the question gets
            no trace, and is counted.
        samples: questions written out to look at; 0 for none.
    """

    teacher: Teacher | None = None
    folder: str = "runs/traces"
    gold: Gold = "blind"
    splits: tuple[SplitName, ...] = ("train", "val")
    batch_size: int = 8
    most_attempts: int = 3
    samples: int = 20

    def __post_init__(self) -> None:
        for name, least in {"batch_size": 1, "most_attempts": 0, "samples": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"exploration.traces.{name} must be at least {least}, got {getattr(self, name)}")
        if not self.splits or len(set(self.splits)) != len(self.splits):
            raise ValueError(f"exploration.traces.splits must name at least one, each once; got {list(self.splits)}")

    @property
    def tells_gold(self) -> bool:
        """Whether the teacher is told the right answer."""
        return self.gold == "aware"
