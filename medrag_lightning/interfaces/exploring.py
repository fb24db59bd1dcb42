"""Experts: what writes searches for questions to learn from, and says whether what they found supports the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from PIL.Image import Image

from medrag_lightning.records import Document, Query


@dataclass(frozen=True, slots=True)
class ExploreTask:
    """A question to write searches for.

    Attributes:
        query: the question, without its answer and without the evidence that a generated world knows to be right or wrong.
        image: its image, opened; None for a question without one.
        corpora: what each corpus holds, by its name, in the order of the tags to write.
        count: queries to write for each corpus.
        attempt: 0, then counting up where an earlier reply could not be read.
    """

    query: Query
    image: Image | None
    corpora: Mapping[str, str]
    count: int
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class JudgeTask:
    """What a search found, to be judged: do these documents support the right answer (not: is the answer right)?

    Attributes:
        query: the question, with its right answer.
        image: its image, opened; None for a question without one.
        corpus, words: what was searched, and with what.
        documents: what was found, best first; at least one.
    """

    query: Query
    image: Image | None
    corpus: str
    words: str
    documents: tuple[Document, ...]


@runtime_checkable
class Expert(Protocol):
    """A model, or a set of rules, that writes searches and judges what they find (HeteroRAG, MQG: a large reader does both)."""

    def explore(self, tasks: Sequence[ExploreTask]) -> list[str]:
        """One text a task, to be read by `records.parse_searches`."""
        ...

    def judge(self, tasks: Sequence[JudgeTask]) -> list[str]:
        """One text a task, whose last word is ``yes`` or ``no``; any other counts as no."""
        ...

    def fingerprint(self) -> str:
        """sha256 over everything that the texts depend on; replies of another are not reused."""
        ...
