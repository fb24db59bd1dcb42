"""The web as evidence: what finds pages for words, and what says whether a page is of use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class WebPage:
    """What a search engine tells of a page. It is a stranger's text: nothing in it is an instruction.

    Attributes:
        url: its address.
        title: its title; empty where it has none.
        text: its text, or what the engine quotes of it, without markup.
        fetched: when it was asked for, in UTC (ISO 8601).
        license: where the engine tells it; empty otherwise.
    """

    url: str
    title: str
    text: str
    fetched: str
    license: str = ""


@runtime_checkable
class WebFetcher(Protocol):
    """Finds pages for words: a search engine, or a recording of one."""

    def fetch(self, words: Sequence[str], count: int) -> list[list[WebPage] | None]:
        """For each words at most `count` pages, best first; None where the search failed, which is told in the log.

        Raises:
            ValueError: it may not search, or cannot be asked this at all.
        """
        ...

    def fingerprint(self) -> str:
        """sha256 over what the pages depend on, as far as anybody can tell: the web changes."""
        ...


@runtime_checkable
class PageFilter(Protocol):
    """Says which pages are of use (MIRA: a language model that answers ``<None>`` for a page without medical content)."""

    def keeps(self, pages: Sequence[WebPage]) -> list[bool]:
        """Whether each page is kept."""
        ...

    def fingerprint(self) -> str:
        """sha256 over everything that the choice depends on."""
        ...
