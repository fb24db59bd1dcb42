"""Rewriters: what makes a question of a dialogue stand alone, so that it can be searched with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class RewriteTask:
    """A question to rewrite.

    Attributes:
        question: the newest one.
        history: (question, answer) of the turns before it, first turn first; at least one.
    """

    question: str
    history: tuple[tuple[str, str], ...]


@runtime_checkable
class Rewriter(Protocol):
    """A model, or a set of rules, that writes standalone questions (MIRA: a language model, asked without the image)."""

    def rewrite(self, tasks: Sequence[RewriteTask]) -> list[str | None]:
        """One question a task that says the same without its history; the question itself where it needs none. None where it
        failed: the question is then searched with as it is."""
        ...

    def fingerprint(self) -> str:
        """sha256 over everything that the questions depend on; those of another are not reused."""
        ...


@runtime_checkable
class LoadingRewriter(Rewriter, Protocol):
    """A rewriter that takes long before its first question."""

    def load(self) -> None:
        """Loads what it needs, once, so that the time of its first answer is that of all others; ValueError where it cannot."""
        ...
