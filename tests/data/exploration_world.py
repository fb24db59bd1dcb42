"""A world to explore: scripted questions, shelves that find what the words say, and an expert who says what it was told to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from medrag_lightning.data.exploration.exploring import Ground
from medrag_lightning.interfaces import ExploreTask, JudgeTask
from medrag_lightning.records import Candidate, Channel, Document, ImageRef, Query, Retrieved, Split, format_searches
from medrag_lightning.retrieval.wording import wording

CORPORA = {"research": "abstracts", "wiki": "an encyclopaedia", "graph": "terms"}


@dataclass
class Shelf:
    """Finds, for any words, documents named after them; none for words with ``nothing`` in them. Counts searches."""

    corpus: str = ""
    top: int = 3
    asked: Counter = field(default_factory=Counter)

    def prepare(self, documents, open_image, folder):
        """Nothing to prepare."""

    def load(self, documents, open_image, folder):
        """Nothing to load."""

    def retrieve(self, queries):
        """`top` documents of each query."""
        return [Retrieved(query.id, tuple(self._found(query))) for query in queries]

    def fingerprint(self):
        """Its name."""
        return f"shelf {self.corpus} {self.top}"

    def _found(self, query):
        words = wording(query, self.corpus)
        self.asked[query.id, words] += 1
        if words is None or "nothing" in words:
            return
        for place in range(self.top):
            name = f"{self.corpus}: {words} ({place})"
            yield Candidate(Document(name, f"text about {words}", source=self.corpus), 1.0 - place, Channel.LEXICAL)


@dataclass
class Library:
    """A shelf for each corpus, as `CorpusSearch` has parts."""

    parts: Mapping[str, Shelf]

    def prepare(self, documents, open_image, folder):
        """Nothing to prepare."""

    def load(self, documents, open_image, folder):
        """Nothing to load."""

    def retrieve(self, queries):
        """Nobody should ask for all corpora at once here."""
        raise AssertionError("an exploration asks one corpus at a time")

    def fingerprint(self):
        """Those of the shelves."""
        return " ".join(part.fingerprint() for part in self.parts.values())


@dataclass
class Scripted:
    """An expert by script.

    Attributes:
        replies: of each question, one a time it is asked; the last stands for all that follow.
        verdict: what it says of words; by default ``yes`` for words with ``good`` in them.
        name: of the expert.
        stop_after: calls after which it falls over.
    """

    replies: Mapping[str, Sequence[str]]
    name: str = "scripted"
    stop_after: int | None = None
    explored: list[ExploreTask] = field(default_factory=list)
    judged: list[JudgeTask] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)

    def explore(self, tasks):
        """What the script says for this attempt."""
        self._count(tasks)
        self.explored += tasks
        return [self.replies[task.query.id][min(task.attempt, len(self.replies[task.query.id]) - 1)] for task in tasks]

    def judge(self, tasks):
        """Some reasoning, then a verdict that the words decide."""
        self._count(tasks)
        self.judged += tasks
        return [self.verdict(task) for task in tasks]

    def verdict(self, task):
        """``maybe`` is what cannot be read."""
        kind = re.match(r"\w+", task.words)[0]
        return {"good": "They tell it.\n\n**Yes**.", "maybe": "yes, or rather: maybe"}.get(kind, "They do not. Answer: no")

    def fingerprint(self):
        """Its name."""
        return f"{self.name:0<64}"

    def _count(self, tasks):
        self.calls.append(len(tasks))
        if self.stop_after is not None and len(self.calls) > self.stop_after:
            raise KeyboardInterrupt


def picture(ref: ImageRef) -> Image.Image:
    """Grey."""
    return Image.fromarray(np.full((8, 8, 3), 128, np.uint8))


def questions(names: Sequence[str], split: Split = Split.TRAIN) -> list[Query]:
    """One question a name, with an image and the answer GOLD."""
    return [
        Query(name, f"what is shown in {name}?", ImageRef(f"{name}.png"), "GOLD", split=split, patient_id=f"p-{name}")
        for name in names
    ]


def library(top: int = 3) -> Library:
    """A shelf for each corpus."""
    return Library({name: Shelf(name, top) for name in CORPORA})


def ground(train: Sequence[Query], val: Sequence[Query] = (), source: object | None = None, seed: int = 0) -> Ground:
    """Where to explore."""
    return Ground({Split.TRAIN: list(train), Split.VAL: list(val), Split.TEST: []}, [], source or library(), picture, seed)


def reply(**wordings: Sequence[str]) -> str:
    """A reply as it should be."""
    return format_searches(wordings, list(CORPORA))


def files(folder: Path) -> dict[str, bytes]:
    """Every file below, by its name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
