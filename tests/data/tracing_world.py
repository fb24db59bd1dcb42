"""A world to trace: questions with some evidence each, and a teacher who says what it was told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from medrag_lightning.data.searching import Searching
from medrag_lightning.data.tracing.building import Ground
from medrag_lightning.interfaces import TraceTask
from medrag_lightning.records import Candidate, Channel, Document, ImageRef, Query, Retrieved, Split

SAID = {
    "rearrange": "[2] tells of {q}\n[1]",
    "initial": "mass",
    "rethink": "1. Evidence 2 tells it.\n2. It is no mass.",
    "final": "cyst",
}


@dataclass
class Found:
    """A source that finds for each question: a report with an image, a text, another text; `none` for the questions named."""

    none: Sequence[str] = ()
    name: str = "found"

    def prepare(self, documents, open_image, folder):
        """Nothing to prepare."""

    def load(self, documents, open_image, folder):
        """Nothing to load."""

    def retrieve(self, queries):
        """Three candidates a question."""
        return [Retrieved(query.id, () if query.id in self.none else tuple(self._found(query.id))) for query in queries]

    def fingerprint(self):
        """Its name."""
        return self.name

    def _found(self, name):
        report = Document(f"{name}-report", f"report for {name}", ImageRef(f"{name}-report.png"))
        for document in (report, Document(f"{name}-text", f"a text tells of {name}, more or less"), Document(f"{name}-x", "x")):
            yield Candidate(document, 1.0, Channel.LEXICAL)


@dataclass
class Scripted:
    """A teacher by script.

    Attributes:
        says: gives the reply to a task, None for a failed call.
        name: of the teacher.
        stop_after: calls after which it falls over.
    """

    says: Callable[[TraceTask], str | None] = lambda task: sound(task)
    name: str = "scripted"
    stop_after: int | None = None
    tasks: list[TraceTask] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)

    def write(self, tasks: Sequence[TraceTask]) -> list[str | None]:
        """What the script says."""
        self.calls.append(len(tasks))
        if self.stop_after is not None and len(self.calls) > self.stop_after:
            raise KeyboardInterrupt
        self.tasks += tasks
        return [self.says(task) for task in tasks]

    def fingerprint(self) -> str:
        """Its name."""
        return f"{self.name:0<64}"


def sound(task: TraceTask) -> str:
    """A reply as it should be."""
    return SAID[task.step].format(q=task.query.id) if task.documents or task.step != "rearrange" else ""


def picture(ref: ImageRef) -> Image.Image:
    """Grey; an image with ``broken`` in its name cannot be opened."""
    if "broken" in ref.path:
        raise ValueError(f"{ref.path}: damaged image")
    return Image.fromarray(np.full((8, 8, 3), 128, np.uint8))


def questions(count: int, split: Split = Split.TRAIN, **traits: object) -> list[Query]:
    """So many questions with an image and the answer ``cyst``."""
    return [
        Query(f"{split}{n}", f"what is in {n}?", ImageRef(f"{n}.png"), "cyst", split=split, patient_id=f"p{n}", **traits)
        for n in range(count)
    ]


def ground(train: Sequence[Query], val: Sequence[Query] = (), source: Found | None = None) -> Ground:
    """Where to trace."""
    every = {Split.TRAIN: list(train), Split.VAL: list(val), Split.TEST: []}
    return Ground(every, source or Found(), Searching([], picture, Path("nowhere")), 0)
