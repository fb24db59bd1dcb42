"""What a data module reads, and what it serves to a stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from PIL.Image import Image

from medrag_lightning.records import Document, ImageRef, Query

OpenImage = Callable[[ImageRef], Image]
"""Opens an image as RGB, or raises ValueError that names the file and the remedy."""


@runtime_checkable
class Table(Protocol):
    """A data set on disk, read into records. One parser, one class; see data/tables."""

    def queries(self) -> list[Query]:
        """Its questions, in file order; raises ValueError that lists every bad row with file and line."""
        ...

    def documents(self) -> list[Document]:
        """What of it may serve as evidence (never validation or test items), in file order."""
        ...

    def roots(self) -> list[Path]:
        """The folders that its images lie under; nothing outside them is opened."""
        ...


Collator = Callable[[Sequence[Any]], Any]
"""A list of examples to a batch; runs in loader workers."""


Feed = Literal[
    "reading", "corpus", "scoring", "pairs", "distillation", "fusion", "preference", "searches", "traces", "candidates"
]
"""What a data module serves to a stage: examples to read, documents to embed, (query, condition) examples to score, image-text
pairs, queries with their pools of scored candidates, the similarities of such pools, preference pairs, questions to write
searches for, examples with the trace that is to be written, or candidates with what the reader said with each."""


@runtime_checkable
class ServedStage(Protocol):
    """What the data module asks of any stage."""

    @property
    def feed(self) -> Feed:
        """What the stage is served."""
        ...

    def collator(self, training: bool) -> Collator:
        """The collator for training batches, or for evaluation batches."""
        ...


@runtime_checkable
class CollatingStage(ServedStage, Protocol):
    """What the data module asks of a stage that reads examples."""

    @property
    def one_candidate_per_prompt(self) -> bool:
        """Whether a training prompt shows one candidate (JOMED) or all of them."""
        ...


@runtime_checkable
class SplitChoosingStage(ServedStage, Protocol):
    """A stage that reads examples and says of which questions `predict` is to give it; any other gets those of the test."""

    @property
    def predicts_split(self) -> Literal["train", "val"]:
        """The split that `predict` goes through."""
        ...
