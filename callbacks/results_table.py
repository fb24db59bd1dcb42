"""The last word of a test: every system beside its controls, with intervals, printed and written."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
from rich import get_console
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from callbacks.evaluated import answering_stage, query_holder, run_folder
from medrag_lightning.artifacts import atomic_write, write_json
from medrag_lightning.metrics import (
    Bootstrap,
    Metric,
    ResultTable,
    Row,
    Unit,
    cluster_of,
    control_predictions,
    summarise,
)
from medrag_lightning.records import Query

WIDTH = 120
CLOSED = {
    "closed_accuracy": "accuracy",
    "closed_balanced_accuracy": "balanced",
    "closed_macro_f1": "macro-F1",
    "closed_ece": "ECE",
    "closed_invalid": "invalid",
}
OPEN = {
    "open_token_recall": "token recall",
    "open_token_f1": "token F1",
    "open_exact_match": "exact match",
    "open_invalid": "empty",
}


class ResultsTable(L.Callback):
    """After a test: majority and question-only beside every evidence regime, intervals, paired differences, honest
    notes.

    Writes ``results.json`` and ``results.csv`` (``results_val.*`` for the verb `validate`) to the run folder and prints the
    table last.

    Args:
        resampling_unit: what the bootstrap draws; questions about one patient are drawn together by default.
        resamples: how many.
        confidence: of the intervals.
        seed: of the bootstrap.
    """

    def __init__(
        self,
        resampling_unit: Literal["patient", "study", "image", "query"] = "patient",
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> None:
        self.unit, self.bootstrap = Unit(resampling_unit), Bootstrap(resamples, confidence, seed)
        self._to_print: Group | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses a stage or data that cannot be reported on, before time is spent."""
        if stage in ("test", "validate") and trainer.state.fn == stage:
            answering_stage(pl_module, self)
            query_holder(trainer, self)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Computes and writes the table (process 0)."""
        self._tabulate(trainer, pl_module, "test")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The same for the verb `validate`; not for the validations of a fit."""
        if trainer.state.fn == "validate":
            self._tabulate(trainer, pl_module, "val")

    def _tabulate(self, trainer: L.Trainer, pl_module: L.LightningModule, split: str) -> None:
        if not trainer.is_global_zero:
            return
        predictions = answering_stage(pl_module, self).predictions
        data = query_holder(trainer, self)
        asked = {prediction.query_id for prediction in predictions}
        queries = [query for query in data.split_queries(split) if query.id in asked]
        controls, control_notes = control_predictions(data.split_queries("train"), queries)
        clusters = cluster_of(queries, self.unit)
        table = summarise([*predictions, *controls], clusters, self.bootstrap)
        how = self._how(clusters)
        notes = [*table.notes, *control_notes]
        title = title_of(queries, {"test": "Test", "val": "Validation"}[split])
        name = "results" if split == "test" else f"results_{split}"
        write_results(run_folder(trainer), table, {"title": title, "intervals": how, "notes": notes}, name)
        self._to_print = render(table, title, [how, *notes])

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Prints the table, after everything that the trainer prints."""
        if self._to_print is not None:
            console = get_console()  # the one that a live progress bar draws on
            (console if console.is_terminal else Console(width=WIDTH)).print(self._to_print)
            self._to_print = None

    def _how(self, cluster_of_query: Mapping[str, str]) -> str:
        b, clusters = self.bootstrap, set(cluster_of_query.values())
        if not b.resamples:
            return f"{len(cluster_of_query)} queries; no intervals were asked for"
        units = "/".join(sorted({cluster.split(":")[0] for cluster in clusters}))
        return (
            f"[{b.confidence:.0%} interval]: percentile bootstrap, {b.resamples} resamples, seed {b.seed}, by {units} "
            f"({len(clusters)} of them, {len(cluster_of_query)} queries); * excludes 0"
        )


def title_of(queries: Sequence[Query], what: str = "Test") -> str:
    """The data sets by name; synthetic data are called so."""
    sources = sorted({query.source for query in queries if query.source})
    title = f"{what} results on {', '.join(sources) or 'unnamed data'}"
    synthetic = any("synthetic" in source.casefold() for source in sources)
    return f"{title}: SYNTHETIC DATA, no medical meaning" if synthetic else title


def write_results(folder: Path, table: ResultTable, head: Mapping[str, Any], name: str = "results") -> None:
    """Writes ``results.json`` (everything) and ``results.csv`` (one line a number), atomically."""
    write_json(folder / f"{name}.json", {**table.as_json(), **head})
    records = table.as_records()
    with atomic_write(folder / f"{name}.csv", "w") as stream:
        writer = csv.DictWriter(stream, list(records[0]) if records else ["system"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


def render(table: ResultTable, title: str, footnotes: Sequence[str]) -> Group:
    """The table for a terminal of 120 columns: closed, open, by need, differences, footnotes."""
    parts: list[Any] = [Text(title, style="bold")]
    for heading, columns in (("closed", CLOSED), ("open", OPEN)):
        rows = [row for row in table.rows if row.metrics[next(iter(columns))].n]
        if rows:
            parts.append(_metric_table(heading, columns, rows))
    for heading, name in (("closed accuracy %", "closed_accuracy"), ("token recall %", "open_token_recall")):
        needs = [row for row in table.needs if row.metrics[name].n]
        if needs:
            parts.append(_need_table(f"{heading} by need", name, needs))
    if table.differences:
        parts.append(_difference_table(table))
    spaced = [part for table_part in parts for part in (table_part, Text())]
    return Group(*spaced, *(Text(f"- {note}") for note in footnotes))


def _metric_table(heading: str, columns: Mapping[str, str], rows: Sequence[Row]) -> Table:
    table = _table(heading)
    for name in (*columns.values(), "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = [cell(row.metrics[name]) for name in columns]
        table.add_row(row.system, *cells, str(row.metrics[next(iter(columns))].n), style=_style(row))
    return table


def _need_table(heading: str, metric: str, rows: Sequence[Row]) -> Table:
    table = _table(heading)
    needs = sorted({row.need for row in rows if row.need is not None})
    for need in needs:
        table.add_column(need, justify="right", no_wrap=True)
    for system in dict.fromkeys(row.system for row in rows):
        mine = {row.need: row for row in rows if row.system == system}
        cells = [percent_cell(mine[need].metrics[metric]) if need in mine else "-" for need in needs]
        table.add_row(system, *cells, style=_style(next(iter(mine.values()))))
    return table


def _difference_table(results: ResultTable) -> Table:
    table = _table("retrieved minus, paired")
    for name in ("closed accuracy", "token recall"):
        table.add_column(name, justify="right", no_wrap=True)
    for baseline in dict.fromkeys(d.baseline for d in results.differences):
        mine = {d.metric: d for d in results.differences if d.baseline == baseline}
        cells = []
        for metric in ("closed_accuracy", "open_token_recall"):
            mark = " *" if metric in mine and mine[metric].excludes_zero else "  "
            cells.append(cell(mine[metric].difference, signed=True) + mark if metric in mine else "-")
        table.add_row(baseline, *cells)
    return table


def cell(metric: Metric, signed: bool = False) -> str:
    """``0.812 [.78, .84]``; a dash where there is no value."""
    if metric.value != metric.value:
        return "-"
    value = f"{metric.value:+.3f}" if signed else f"{metric.value:.3f}"
    if metric.low != metric.low:
        return value
    low, high = (_short(end, signed) for end in (metric.low, metric.high))
    return f"{value} [{low}, {high}]"


def percent_cell(metric: Metric) -> str:
    """``81 [78, 84]``, in percent, where columns are many."""
    if metric.value != metric.value:
        return "-"
    ends = "" if metric.low != metric.low else f" [{100 * metric.low:.0f}, {100 * metric.high:.0f}]"
    return f"{100 * metric.value:.0f}{ends}"


def _short(value: float, signed: bool) -> str:
    text = f"{value:+.2f}" if signed else f"{value:.2f}"
    return text.replace("0.", ".", 1) if abs(value) < 0.995 else text


def _table(heading: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="italic", pad_edge=False)
    table.add_column(heading, no_wrap=True)
    return table


def _style(row: Row) -> str:
    return "bold" if row.system == "retrieved" else ""
