"""Judges: what says which of two answers is the better one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

Verdict = Literal["first", "second", "tie"]


@dataclass(frozen=True, slots=True)
class PairTask:
    """Two answers to one question, in the order in which the judge is shown them.

    Attributes:
        question: the question.
        gold: the right answer; None where none is known.
        first, second: the answers.
    """

    question: str
    gold: str | None
    first: str
    second: str


@runtime_checkable
class PairJudge(Protocol):
    """A model, or a set of rules, that compares answers (MIRA: a large vision-language model, which was its teacher, too)."""

    def compare(self, tasks: Sequence[PairTask]) -> list[Verdict | None]:
        """One verdict a task; None for a call that failed: its pair is left out and counted."""
        ...

    def fingerprint(self) -> str:
        """sha256 over everything that the verdicts depend on; that of the model alone where the judge is one, so that it can be
        compared with a teacher's."""
        ...
