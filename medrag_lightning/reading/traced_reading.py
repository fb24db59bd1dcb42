"""Traces to predictions: the first answer and the last one of each, which cite what the trace keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medrag_lightning import metrics
from medrag_lightning.batches import ReaderBatch
from medrag_lightning.reading.batch_reader import ClosedReading, Reading, prediction_of
from medrag_lightning.reading.trace_writer import AnswerStep, Traced, TraceWriter
from medrag_lightning.records import AnswerType, Prediction


def readings_of(
    writer: TraceWriter, batch: ReaderBatch, traced: Sequence[Traced], closed: ClosedReading, step: AnswerStep = "final"
) -> list[Reading]:
    """One reading for each example of the batch, in order: the answer of a step of its trace.

    A closed question's choices are always scored, given the trace so far; ``generated`` takes the words that were written, and
    only a choice that they state. A trace without a last answer falls back on its first one, and an open question then on none.

    Args:
        writer: wrote the traces.
        batch: of the same examples.
        traced: their traces.
        closed: how closed questions are answered.
        step: whose answer.
    """
    scored = writer.choices_logp(batch, traced, step)
    return [_reading(one, logp_C, closed, step) for one, logp_C in zip(traced, scored, strict=True)]


def _reading(traced: Traced, logp_C: NDArray[np.float64] | None, closed: ClosedReading, step: AnswerStep) -> Reading:
    query, written = traced.example.query, traced.written
    said = written.initial if step == "initial" else written.answer()
    if query.answer_type is AnswerType.OPEN:
        return Reading(_cited(prediction_of(traced.example, said, traced.text, None), traced), math.nan)
    assert logp_C is not None, "a closed question has choices"
    if closed == "scored":
        answer: str | None = query.choices[int(logp_C.argmax())]
    else:
        answer = None if said is None else metrics.parse_closed(said, query.choices)
    gold = query.gold_index
    known = float(logp_C[gold]) if gold >= 0 else None
    prediction = replace(prediction_of(traced.example, answer, traced.text, known), logp_nats=tuple(logp_C.tolist()))
    return Reading(_cited(prediction, traced), math.nan if known is None else -known)


def _cited(prediction: Prediction, traced: Traced) -> Prediction:
    kept = traced.kept
    return replace(
        prediction,
        cited=tuple(one.id for one in kept),
        scores=tuple(one.score for one in kept),
        channels=tuple(one.channel for one in kept),
    )
