"""What became of traces: could they be read, what do they keep, and does rethinking help (MIRA)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class TraceOutcome:
    """What became of one question's trace.

    Attributes:
        query_id: the question.
        whole: whether all four steps could be read.
        faults: what was wrong with it; a trace with none is whole, and keeps word for word what it was shown.
        fell_back: whether it has no last answer of its own.
        kept: pieces of evidence that it keeps; None where that could not be read, or there was none to keep.
        shown: pieces that it was shown.
        initial_right, final_right: None where the right answer is not known.
    """

    query_id: str
    whole: bool
    faults: tuple[str, ...]
    fell_back: bool
    kept: int | None
    shown: int
    initial_right: bool | None
    final_right: bool | None


def trace_numbers(outcomes: Sequence[TraceOutcome]) -> dict[str, float]:
    """Shares over the traces, by name; what cannot be computed is left out.

    ``initial_accuracy``, ``final_accuracy``, ``mended`` (wrong at first, right at last) and ``spoilt`` (the other way) are over
    questions with a known answer; ``kept`` is the mean number of pieces, over those that had any to keep.
    """
    shares: dict[str, Callable[[TraceOutcome], float | None]] = {
        "whole": lambda one: one.whole,
        "faultless": lambda one: not one.faults,
        "fell_back": lambda one: one.fell_back,
        "kept": lambda one: one.kept,
        "initial_accuracy": lambda one: one.initial_right,
        "final_accuracy": lambda one: one.final_right,
        "mended": lambda one: None if one.final_right is None else one.final_right and not one.initial_right,
        "spoilt": lambda one: None if one.final_right is None else bool(one.initial_right and not one.final_right),
    }
    found = {name: [float(v) for one in outcomes if (v := share(one)) is not None] for name, share in shares.items()}
    return {name: float(np.mean(values)) for name, values in found.items() if values}
