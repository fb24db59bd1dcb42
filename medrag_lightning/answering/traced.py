"""Answering by a trace: the reader rearranges its evidence, answers, rethinks, and answers for good (MIRA, RTRA)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from medrag_lightning.answering.answer import NO_EVIDENCE, Answer, AnswerTrace, KeptEvidence
from medrag_lightning.batches import Example
from medrag_lightning.interfaces import Reader
from medrag_lightning.reading.batch_reader import ClosedReading, Reading
from medrag_lightning.reading.trace_writer import Traced, TraceWriter
from medrag_lightning.reading.traced_reading import readings_of

NOTHING_KEPT = "the reader kept nothing of the evidence that it was shown"
KEPT_UNREAD = "which evidence the reader kept could not be read, so all that it was shown is cited"
NO_LAST_ANSWER = "the reader wrote no last answer: what stands here was scored after what it wrote, or is its first one"


@dataclass(frozen=True, slots=True)
class TracedReading:
    """A reading, the trace that it comes from, and how long each step took."""

    reading: Reading
    traced: Traced
    seconds: Mapping[str, float]


def check_tracer(tracer: TraceWriter, reader: Reader, refused: Mapping[str, Any]) -> None:
    """ValueError where an answerer that writes traces cannot be as it was set up.

    Args:
        tracer: writes the traces.
        reader: of the answerer.
        refused: settings that would be ignored, by name, where they are set.
    """
    if tracer.reader is not reader:
        raise ValueError("tracer: its reader must be the answerer's, which scores the choices after the traces")
    for name, value in refused.items():
        if value:
            raise ValueError(f"{name}={value!r} would be ignored by an answerer that writes traces; leave it out")


def read_traced(tracer: TraceWriter, example: Example, closed: ClosedReading) -> TracedReading:
    """Writes one trace, and reads its last answer; as the verb `test` of stage reader_trace with batches of one."""
    start = time.perf_counter()
    batch = tracer.collate([example]).to(tracer.device())
    encoded = time.perf_counter()
    traced = tracer.read(batch)
    wrote = time.perf_counter()
    (reading,) = readings_of(tracer, batch, traced, closed)
    seconds = {"encode": encoded - start, "trace": wrote - encoded, "read": time.perf_counter() - wrote}
    return TracedReading(reading, traced[0], seconds)


def with_trace(answer: Answer, traced: Traced) -> Answer:
    """The answer with its trace, and with what there is to beware of in it."""
    written, shown = traced.written, traced.example.candidates
    known = [one for one in written.kept or () if one.number <= len(shown)]
    kept = tuple(KeptEvidence(one.number, shown[one.number - 1].id, one.text) for one in known)
    told = AnswerTrace(traced.text, kept, written.initial, written.rethink, written.final, traced.faults)
    warnings = [NOTHING_KEPT if one == NO_EVIDENCE and shown else one for one in answer.warnings]
    if written.kept is None and shown:
        warnings.append(KEPT_UNREAD)
    if written.final is None:
        warnings.append(NO_LAST_ANSWER)
    if traced.faults:
        warnings.append(f"the trace is not as it should be: {'; '.join(traced.faults)}")
    return replace(answer, trace=told, warnings=tuple(warnings))
