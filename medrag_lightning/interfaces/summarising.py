"""Summarisers: what makes a long section of a page short, for a knowledge base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class SummaryTask:
    """A section of a page to be summarised: the page's title, its headings, the outermost first, and its text."""

    title: str
    headings: tuple[str, ...]
    text: str


@runtime_checkable
class Summariser(Protocol):
    """A model, or a set of rules, that shortens texts (MIRA: a large language model, one call a section)."""

    def summarise(self, tasks: Sequence[SummaryTask]) -> list[str]:
        """One text a task; an empty one where it finds nothing to say. Whoever asks checks it: it may be anything."""
        ...

    def fingerprint(self) -> str:
        """sha256 over everything that the texts depend on; summaries of another are not reused."""
        ...
