"""Rewriters: what turns the newest question of a dialogue into one that can be asked alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class RewriteTask:
    """A question to be rewritten.

    Attributes:
        question: the newest question.
        history: the turns before it, oldest first, as (question, answer).
    """

    question: str
    history: tuple[tuple[str, str], ...]


@runtime_checkable
class Rewriter(Protocol):
    """A model, or a set of rules, that rewrites questions (MIRA: a language model)."""

    def rewrite(self, tasks: Sequence[RewriteTask]) -> list[str | None]:
        """One question a task, that needs no history. None where that failed: the question is searched with as it stands."""
        ...

    def fingerprint(self) -> str:
        """sha256 over everything that the texts depend on; those of another are not reused."""
        ...
