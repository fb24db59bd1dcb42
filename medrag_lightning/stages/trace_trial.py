"""Traces that were written, tried out: their last answers, their first ones, and those without rearranging."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from medrag_lightning.batches import ReaderBatch
from medrag_lightning.metrics import TraceOutcome, exact_match
from medrag_lightning.reading.batch_reader import ClosedReading, Reading
from medrag_lightning.reading.trace_writer import Traced, TraceWriter
from medrag_lightning.reading.traced_reading import readings_of
from medrag_lightning.records import AnswerType, Prediction, Regime

Ablation = Literal["initial", "no rearrange"]
"""`initial`: the first answer, without rethinking. `no rearrange`: all evidence is kept, whole and in its order."""


@dataclass(frozen=True, slots=True)
class Trial:
    """The readings of a batch, those of the ablations among them, and what became of the traces of its own system."""

    readings: list[Reading]
    outcomes: list[TraceOutcome]


def trial_of(writer: TraceWriter, batch: ReaderBatch, closed: ClosedReading, ablations: tuple[Ablation, ...]) -> Trial:
    """Writes a trace for each example; the ablations are asked where retrieved evidence is shown as it was found.

    Their rows go by their names as systems; the last answers keep the example's own.
    """
    traced = writer.read(batch)
    final, initial = readings_of(writer, batch, traced, closed), readings_of(writer, batch, traced, closed, "initial")
    own = [_is_own(reading.prediction) for reading in final]
    told = zip(traced, initial, final, own, strict=True)
    outcomes = [_outcome(one, first.prediction, last.prediction) for one, first, last, mine in told if mine]
    rows = list(final)
    if "initial" in ablations:
        rows += [_named(reading, "initial") for reading, mine in zip(initial, own, strict=True) if mine]
    if "no rearrange" in ablations and any(own):
        kept = readings_of(writer, batch, writer.read(batch, rearranges=False), closed)
        rows += [_named(reading, "no rearrange") for reading, mine in zip(kept, own, strict=True) if mine]
    return Trial(rows, outcomes)


def _is_own(prediction: Prediction) -> bool:
    return prediction.regime is Regime.RETRIEVED and not prediction.system and prediction.is_ordinary


def _named(reading: Reading, system: str) -> Reading:
    return replace(reading, prediction=replace(reading.prediction, system=system))


def _outcome(traced: Traced, first: Prediction, last: Prediction) -> TraceOutcome:
    written = traced.written
    shown = len(traced.example.candidates)
    return TraceOutcome(
        query_id=last.query_id,
        whole=written.whole() is not None,
        faults=traced.faults,
        fell_back=written.final is None,
        kept=len(written.kept) if written.kept is not None and shown else None,
        shown=shown,
        initial_right=_right(first),
        final_right=_right(last),
    )


def _right(prediction: Prediction) -> bool | None:
    if prediction.gold is None:
        return None
    if prediction.answer_type is AnswerType.CLOSED:
        return prediction.answer == prediction.gold
    return bool(exact_match([prediction.gold], [prediction.answer])[0])
