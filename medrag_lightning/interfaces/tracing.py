"""Teachers: what writes the steps of a trace for a reader to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from PIL.Image import Image

from medrag_lightning.records import Document, Kept, Query

TraceStep = Literal["rearrange", "initial", "rethink", "final"]


@dataclass(frozen=True, slots=True)
class TraceTask:
    """One step of one trace to be written.

    Attributes:
        step: which.
        query: the question, without its answer and without the evidence that a generated world knows to be right or wrong.
        image: its image, opened; None for a question without one.
        documents: the evidence, numbered from 1 in this order: all that was retrieved in step ``rearrange``, and in every
            other, too, so that numbers never change.
        images: their images, opened; None for a document without one. An image that cannot be opened ends the trace: its number
            is never given to another.
        kept: what ``rearrange`` kept; None in that step.
        initial, rethink: what was written before; None where it was not yet.
        gold: the right answer, in step ``final`` of a gold-aware trace (as published) and nowhere else.
        attempt: 0, then counting up where an earlier reply could not be used.
    """

    step: TraceStep
    query: Query
    image: Image | None
    documents: tuple[Document, ...]
    images: tuple[Image | None, ...]
    kept: tuple[Kept, ...] | None = None
    initial: str | None = None
    rethink: str | None = None
    gold: str | None = None
    attempt: int = 0


@runtime_checkable
class Teacher(Protocol):
    """A model, or a set of rules, that writes traces (MIRA: a large reader, five zero-shot prompts)."""

    def write(self, tasks: Sequence[TraceTask]) -> list[str | None]:
        """One text a task: what stands between the tags of its step. None for a call that failed: its trace is left out."""
        ...

    def fingerprint(self) -> str:
        """sha256 over everything that the texts depend on; replies of another are not reused."""
        ...
