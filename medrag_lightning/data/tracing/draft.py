"""A trace while it is written."""

from __future__ import annotations

from dataclasses import dataclass, field

from medrag_lightning.interfaces import TraceStep
from medrag_lightning.records import Document, Kept, Query, Trace
from medrag_lightning.trace_files import TraceRow


@dataclass(slots=True)
class Draft:
    """The steps of one question's trace so far.

    Attributes:
        query: the question, with all that is known of it; a teacher is shown less (`writing.Writing.task`).
        documents: its evidence, numbered from 1 in this order from the first step to the last.
        kept, texts: what was written; `texts` by step.
        reason: why the trace has ended before its last step; blank where it has not.
        ended_in: in which step.
        faults: what was wrong with replies.
    """

    query: Query
    documents: tuple[Document, ...]
    kept: tuple[Kept, ...] | None = None
    texts: dict[TraceStep, str] = field(default_factory=dict)
    reason: str = ""
    ended_in: TraceStep | None = None
    faults: list[str] = field(default_factory=list)

    def has(self, step: TraceStep) -> bool:
        """Whether a step is written."""
        return self.kept is not None if step == "rearrange" else step in self.texts

    def put(self, step: TraceStep, written: tuple[Kept, ...] | str) -> None:
        """Writes a step."""
        if isinstance(written, str):
            self.texts[step] = written
        else:
            self.kept = written

    def end(self, reason: str, step: TraceStep | None = None) -> None:
        """Ends the trace: nothing of it will be learned from."""
        self.reason, self.ended_in = reason, step

    def row(self, gold_aware: bool) -> TraceRow:
        """The row of the table; without any words where the trace has ended."""
        trace = None
        if not self.reason:
            assert self.kept is not None
            trace = Trace(self.kept, self.texts["initial"], self.texts["rethink"], self.texts["final"])
        return TraceRow(
            self.query.id,
            self.query.split,
            tuple(document.id for document in self.documents),
            tuple(document.image is not None and trace is not None for document in self.documents),
            trace,
            gold_aware,
            self.reason,
            tuple(self.faults),
        )
