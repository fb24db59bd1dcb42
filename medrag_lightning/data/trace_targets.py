"""The traces that a reader learns to write: read from disk, and held to the rules before anything is trained."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medrag_lightning.records import (
    Candidate,
    Channel,
    Document,
    Query,
    Split,
    Trace,
    format_trace,
    kept_faults,
    shares_identity,
)
from medrag_lightning.trace_files import TraceRow, read_traces, traces_are_there

logger = logging.getLogger(__name__)


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class TraceTargets:
    """What stage reader_trace learns from.

    Args:
        folder: of the traces (verb `trace`), for training and validation questions.
        decoded: so many validation questions, drawn, that the reader writes whole traces for in a fit; all in `validate`.
    """

    folder: str
    decoded: int = 100

    def __post_init__(self) -> None:
        if self.decoded < 1:
            raise ValueError(f"evidence.traces.decoded must be at least 1, got {self.decoded}")


@dataclass(frozen=True, slots=True)
class TracedQuery:
    """A question, all evidence that its trace was written with, in the order of its numbers, and the trace."""

    query: Query
    candidates: tuple[Candidate, ...]
    trace: Trace


def traced_queries(
    queries: Mapping[Split, list[Query]], documents: Sequence[Document], targets: TraceTargets | None, split: Split
) -> list[TracedQuery]:
    """The questions of a split that have a trace, in table order; failed traces are left out and told.

    Raises:
        ValueError: no traces are named, none is of this split's questions, or one breaks a rule: it names a document that the
            corpus lacks, shares an identity with its question, or keeps what was not retrieved. Every kind is told at once.
    """
    if targets is None:
        raise ValueError(
            "stage reader_trace learns from traces, and data.evidence.traces names none: write them with the verb trace and "
            "give --data.init_args.evidence.traces '{folder: FOLDER}'"
        )
    known, there = {query.id: query for query in queries[split]}, {document.id: document for document in documents}
    rows = [row for row in read_traces(targets.folder).rows if row.query_id in known]
    whole = [row for row in rows if row.trace is not None]
    if faults := [fault for row in whole for fault in _faults(known[row.query_id], row, there)]:
        told = f"{len(faults)} faults, so nothing is learnt from these traces: {'; '.join(faults[:3])}"
        raise ValueError(f"{targets.folder}: {told}. Write them again, with this run's data (verb trace)")
    if not whole:
        raise ValueError(
            f"data.evidence.traces {targets.folder} holds no trace for any of {len(known)} {split} questions: write them with "
            f"the same tables, and with {str(split)!r} among the splits of the verb trace"
        )
    _tell(split, len(known), rows, len(whole))
    return [_traced(known[row.query_id], row, there) for row in whole]


def trace_texts(targets: TraceTargets | None) -> list[str]:
    """Every trace to learn, for a tokenizer that is trained on what a reader will say; none where there are none."""
    if targets is None or not traces_are_there(targets.folder):
        return []  # only training needs them, and says so (`traced_queries`)
    return [format_trace(row.trace) for row in read_traces(targets.folder).rows if row.trace is not None]


def _faults(query: Query, row: TraceRow, there: Mapping[str, Document]) -> list[str]:
    about = f"the trace of question {query.id!r}"
    if missing := [name for name in row.evidence_ids if name not in there]:
        return [f"{about} was written with {missing[0]!r}, which data.corpus does not hold"]
    mine = [there[name] for name in row.evidence_ids]
    assert row.trace is not None, "only whole traces are asked about"
    shared = [(one.id, shares_identity(query, one)) for one in mine]
    leaks = [f"{about} shows evidence {name!r}, which shares its {why}" for name, why in shared if why]
    kept = kept_faults(row.trace.kept, [one.text for one in mine], row.image_shown)
    return [*leaks, *(f"{about}: {fault}" for fault in kept)]


def _traced(query: Query, row: TraceRow, there: Mapping[str, Document]) -> TracedQuery:
    assert row.trace is not None, "only whole traces are learnt"
    found = tuple(Candidate(there[name], 1.0 - place / 1000, Channel.GIVEN) for place, name in enumerate(row.evidence_ids))
    return TracedQuery(query, found, row.trace)


def _tell(split: Split, asked: int, rows: Sequence[TraceRow], whole: int) -> None:
    why = Counter(row.reason for row in rows if row.trace is None)
    told = "; ".join(f"{fault} ({count})" for fault, count in why.most_common(3))
    aware = sum(row.gold_aware for row in rows if row.trace is not None)
    logger.info(
        "%s: %d traces to learn from, of %d questions; %d failed and are left out%s%s",
        split, whole, asked, len(rows) - whole, f": {told}" if told else "",
        f"; {aware} were finished with the right answer in sight" if aware else "",
    )  # fmt: skip
