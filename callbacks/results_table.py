"""The last word of a test: every system beside its controls, with intervals, printed and written."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import lightning as L
import yaml
from rich.console import Group
from rich.table import Table
from rich.text import Text

from callbacks.evaluated import AnsweringStage, HoldsQueries, KnowsCorpus, answering_stage, query_holder, run_folder
from callbacks.evaluation_report import EvaluationReport
from callbacks.evidence_table import evidence_notes, evidence_tables
from callbacks.protocol_table import protocol_tables
from callbacks.report_text_table import report_text_tables
from callbacks.table_cells import cell, new_table, percent_cell
from medrag_lightning.artifacts import atomic_write, write_json, write_jsonl
from medrag_lightning.metrics import (
    ALWAYS,
    PLUG_INS,
    SYSTEM_ORDER,
    Bootstrap,
    ReportText,
    ResultTable,
    Row,
    Unit,
    analyse,
    cluster_of,
    control_predictions,
    defining_system,
    patient_notes,
    protocol,
    report_text,
    summarise,
)
from medrag_lightning.records import Prediction, Query

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


class ResultsTable(EvaluationReport):
    """After a test: majority and question-only beside every evidence regime and rival retriever, intervals, paired
    differences, what retrieval did to the answers, honest notes. Where a constant answer does as well as a system, words say
    so; yes/no questions are shown beside constant answers, scores without duplicated questions beside those with.

    Writes ``results.json``, ``results.csv`` and ``ledger.jsonl`` (helped, hurt or neither, a line a question and system) to the
    run folder, and prints the table last. The verb `validate` writes ``results_val.*``, ``ledger_val.jsonl``, and in
    ``fusion.yaml`` the fusion settings that suit its answers best, to be given to `test` with ``-c``. Does nothing for a stage
    that answers no queries (retriever training, embedding), so that one base config serves all stages.

    Args:
        resampling_unit: what the bootstrap draws; questions about one patient are drawn together by default.
        resamples: how many.
        confidence: of the intervals.
        seed: of the bootstrap.
        inconsistent_by: the system whose candidates define inconsistent retrieval in a test: ``retrieved`` or a rival's name;
            null for a rival called ``contrastive`` or ``undistilled``, and where there is none, ``retrieved``.
        relevance_margin_nats: a candidate is pseudo-relevant if it makes the gold answer likelier by more than this.
        report_from_words: open questions whose gold answer has at least so many words are reports, and are scored as such, too
            (BLEU-4, ROUGE-L, METEOR, CIDEr-D); null for none.
        report_scores: medical scores of reports from other packages, ``ratescore``, ``radgraph``, ``chexbert``; one that is not
            installed is called unavailable.
    """

    def __init__(
        self,
        resampling_unit: Literal["patient", "study", "image", "query"] = "patient",
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
        inconsistent_by: str | None = None,
        relevance_margin_nats: float = 0.1,
        report_from_words: int | None = 20,
        report_scores: list[str] | None = None,
    ) -> None:
        if report_from_words is None and report_scores:
            raise ValueError(f"report_scores {report_scores} would be ignored: report_from_words is null; set it")
        if report_from_words is not None and report_from_words < 1:
            raise ValueError(f"report_from_words must be at least 1, got {report_from_words}; null for no scores of reports")
        if unknown := sorted(set(report_scores or ()) - set(PLUG_INS)):
            raise ValueError(f"report_scores: {unknown[0]!r} is none of {', '.join(PLUG_INS)}")
        self.report_from_words, self.report_scores = report_from_words, list(report_scores or ())
        if not relevance_margin_nats >= 0:
            raise ValueError(f"relevance_margin_nats must be 0 or more, got {relevance_margin_nats}")
        self.unit, self.bootstrap = Unit(resampling_unit), Bootstrap(resamples, confidence, seed)
        self.inconsistent_by, self.margin_nats = inconsistent_by, relevance_margin_nats
        self._duplicated: dict[str, bool] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses data or names that cannot be reported on, before time is spent."""
        if stage not in ("test", "validate") or trainer.state.fn != stage or answering_stage(pl_module, self) is None:
            return
        rivals = list(getattr(query_holder(trainer, self), "rivals", {}))
        if taken := sorted(set(rivals) & set(SYSTEM_ORDER)):
            raise ValueError(f"data.rivals: {taken} are names of rows in the results table; give other names")
        defining_system([*SYSTEM_ORDER, *rivals], self.inconsistent_by)
        data = query_holder(trainer, self)
        if trainer.is_global_zero and isinstance(data, KnowsCorpus):  # now: an image that cannot be opened must not cost a test
            self._duplicated = data.duplicated("test" if stage == "test" else "val")

    def report(self, trainer: L.Trainer, pl_module: L.LightningModule, split: str) -> None:
        """Computes, writes and draws (process 0)."""
        stage = answering_stage(pl_module, self)
        if stage is None or not trainer.is_global_zero:
            return
        data = query_holder(trainer, self)
        asked = {prediction.query_id for prediction in stage.predictions}
        queries = [query for query in data.split_queries(split) if query.id in asked]
        controls, control_notes = control_predictions(data.split_queries("train"), queries)
        clusters = cluster_of(queries, self.unit)
        table = summarise([*stage.predictions, *controls], clusters, self.bootstrap)
        by = self.inconsistent_by if split == "test" else None  # rivals are there in a test only
        evidence = analyse(stage.predictions, clusters, self.bootstrap, by, self.margin_nats)
        how, folder = self._how(clusters), run_folder(trainer)
        weak = protocol([*stage.predictions, *controls], clusters, self.bootstrap, self._duplicated)
        warned = [*weak.notes, *_patients(data, queries)]
        reports = self._reports([*stage.predictions, *controls], clusters)
        notes = [*warned, *table.notes, *control_notes, *evidence_notes(evidence), *_tuned_note(stage, folder, split)]
        notes += reports.notes
        title = title_of(queries, {"test": "Test", "val": "Validation"}[split])
        suffix = "" if split == "test" else f"_{split}"
        head = {"title": title, "intervals": how, "notes": notes, "evidence": evidence.as_json(), "protocol": weak.as_json()}
        head |= {"reports": reports.as_json()} if reports.rows else {}
        write_results(folder, table, head, f"results{suffix}")
        write_jsonl(folder / f"ledger{suffix}.jsonl", (entry.as_json() for entry in evidence.ledger.entries))
        more = [*report_text_tables(reports), *protocol_tables(weak), *evidence_tables(evidence)]
        self.to_print = render(table, title, [how, *notes], more)

    def _reports(self, predictions: Sequence[Prediction], clusters: Mapping[str, str]) -> ReportText:
        if self.report_from_words is None:
            return ReportText({}, ())
        return report_text(predictions, clusters, self.bootstrap, self.report_from_words, self.report_scores)

    def _how(self, cluster_of_query: Mapping[str, str]) -> str:
        b, clusters = self.bootstrap, set(cluster_of_query.values())
        if not b.resamples:
            return f"{len(cluster_of_query)} queries; no intervals were asked for"
        units = "/".join(sorted({cluster.split(":")[0] for cluster in clusters}))
        return (
            f"[{b.confidence:.0%} interval]: percentile bootstrap, {b.resamples} resamples, seed {b.seed}, by {units} "
            f"({len(clusters)} of them, {len(cluster_of_query)} queries); * excludes 0"
        )


def _patients(data: HoldsQueries, tested: Sequence[Query]) -> list[str]:
    """Whether the test's patients occur in training questions or in the corpus; what is not known is said."""
    corpus = [document.patient_id for document in data.documents()] if isinstance(data, KnowsCorpus) else None
    notes = patient_notes(data.split_queries("train"), tested, corpus)
    return notes if corpus is not None else [*notes, f"duplicates: not computed: {type(data).__name__} tells no corpus"]


def _tuned_note(stage: AnsweringStage, folder: Path, split: str) -> list[str]:
    """Writes ``fusion.yaml`` after a validation of a stage that fuses candidates, and says what was chosen."""
    tuned = getattr(stage, "tuned_fusion", None)
    fusion = tuned.fusion if tuned else getattr(stage, "fusion", None)
    if fusion is None or split != "val":
        return []
    path, settings = folder / "fusion.yaml", asdict(fusion)
    with atomic_write(path, "w") as stream:
        yaml.safe_dump({"model": {"init_args": {"fusion": settings}}}, stream, sort_keys=False)
    if tuned is None:
        return [f"fusion stays as configured ({path}): no validation query has a known answer and two retrieved candidates"]
    chosen = f"temperature {settings['temperature']:g}, head weights {settings['head_weights'] or 'alike'}"
    gain = f"NLL {tuned.before_nats:.4f} -> {tuned.nll_nats:.4f} nats on {tuned.queries} validation queries"
    return [f"fusion tuned by likelihood: {chosen}; {gain}; for a test add -c {path}"]


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


def render(table: ResultTable, title: str, footnotes: Sequence[str], more: Sequence[Table] = ()) -> Group:
    """The table for a terminal of 120 columns: closed, open, by need, differences, `more`, footnotes."""
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
    parts += more
    spaced = [part for table_part in parts for part in (table_part, Text())]
    return Group(*spaced, *(Text(f"- {note}", style="bold" if note.startswith(ALWAYS) else "") for note in footnotes))


def _metric_table(heading: str, columns: Mapping[str, str], rows: Sequence[Row]) -> Table:
    table = new_table(heading, [*columns.values(), "n"])
    for row in rows:
        cells = [cell(row.metrics[name]) for name in columns]
        table.add_row(row.system, *cells, str(row.metrics[next(iter(columns))].n), style=_style(row))
    return table


def _need_table(heading: str, metric: str, rows: Sequence[Row]) -> Table:
    needs = sorted({row.need for row in rows if row.need is not None})
    table = new_table(heading, needs)
    for system in dict.fromkeys(row.system for row in rows):
        mine = {row.need: row for row in rows if row.system == system}
        cells = [percent_cell(mine[need].metrics[metric]) if need in mine else "-" for need in needs]
        table.add_row(system, *cells, style=_style(next(iter(mine.values()))))
    return table


def _difference_table(results: ResultTable) -> Table:
    table = new_table("retrieved minus, paired", ["closed accuracy", "token recall"])
    for baseline in dict.fromkeys(d.baseline for d in results.differences):
        mine = {d.metric: d for d in results.differences if d.baseline == baseline}
        cells = []
        for metric in ("closed_accuracy", "open_token_recall"):
            mark = " *" if metric in mine and mine[metric].excludes_zero else "  "
            cells.append(cell(mine[metric].difference, signed=True) + mark if metric in mine else "-")
        table.add_row(baseline, *cells)
    return table


def _style(row: Row) -> str:
    return "bold" if row.system == "retrieved" else ""
