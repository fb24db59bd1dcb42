"""The toy of coloured squares, with traces by hand: the first document is kept, and tells the colour."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from toy import ToySource, ToyTable, trainer

from medrag_lightning.data.evidence import EvidenceMixture
from medrag_lightning.data.module import MedragData
from medrag_lightning.data.trace_targets import TraceTargets
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.tiny import TinyBackbone
from medrag_lightning.records import Kept, Query, Split, Trace
from medrag_lightning.stages.reader_trace import ReaderTrace
from medrag_lightning.trace_files import TraceRow, write_traces

__all__ = ["data", "reader", "stage", "trace_of", "trainer", "written"]
SHAPE = {"hidden": 32, "layers": 1, "heads": 2, "vision_hidden": 32, "vision_layers": 1, "image_side_px": 32}
ADAMW = partial(torch.optim.AdamW, lr=5e-3)


def trace_of(query: Query) -> Trace:
    """A first answer that is wrong for one colour, mended by the first document."""
    answer = query.answer or ""
    first = "green" if answer == "red" else answer
    kept = (Kept(1, f"it is {answer}"), Kept(2, answer))
    return Trace(kept, first, f"evidence 1 says {answer}", answer)


def written(folder: Path, count: int = 24, **changed: TraceRow) -> Path:
    """Traces of all training and validation questions; the row of a question may be another."""
    source, table = ToySource(), ToyTable(str(folder), count)
    source.load(table.documents(), None, folder)
    rows = []
    for query in table.queries():
        if query.split is not Split.TEST:
            ids = tuple(candidate.id for candidate in source.retrieve([query])[0].candidates)
            row = TraceRow(query.id, query.split, ids, (True, True, True), trace_of(query))
            rows.append(changed.get(query.id, row))
    write_traces(folder / "traces", rows, {"by": "hand"})
    return folder / "traces"


def data(folder: Path, count: int = 24, decoded: int = 100, traces: Path | None = None, **settings) -> MedragData:
    table = ToyTable(str(folder), count)
    mixture = EvidenceMixture(traces=TraceTargets(str(traces or written(folder, count)), decoded))
    chosen = {"batch_size": 6, "eval_batch_size": 4, "cache_folder": str(folder / "evidence"), "regimes": ["retrieved", "none"]}
    return MedragData([table], [table], ToySource(), evidence=mixture, **{**chosen, **settings})


def reader(dropout: float = 0.0, adapter=None, **shape) -> HfReader:
    return HfReader(TinyBackbone(**{**SHAPE, "vocabulary": 400, "dropout": dropout, **shape}), adapter)


def stage(dropout: float = 0.0, optimizer=ADAMW, made_reader=None, **settings) -> ReaderTrace:
    return ReaderTrace(made_reader or reader(dropout), optimizer, **{"max_new_tokens": 70, **settings})
