"""What a reader relies on, after a test with `data.knowledge`: MD, KUD and KID by source, printed, written and drawn."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
from rich.console import Group
from rich.table import Table
from rich.text import Text

from callbacks.evaluated import answering_stage, query_holder, run_folder
from callbacks.evaluation_report import EvaluationReport
from callbacks.knowledge_plot import draw_knowledge
from callbacks.table_cells import gap_cell, new_table, percent_cell
from medrag_lightning.artifacts import atomic_write, write_bytes, write_json
from medrag_lightning.metrics import RETRIEVED, Bootstrap, KnowledgeUse, Metric, Unit, cluster_of, knowledge_use

ALL = "all"
COLUMNS = {"reports": "reports alone", "documents": "documents alone", "both": "both, as found", "any": "any of them"}
ROWS = {
    "md": "MD: right with another image",
    "md_strict": "MD: that image alone fails",
    "kud": "KUD: wrong without and with",
    "kid": "KID: right without, wrong with",
    "over_reliance": "over-reliance, of errors",
    "copied": "same answer, another image",
    "kud_worded": "KUD worded (higher is better)",
}
BY_KIND = {
    ("md", "both"): "MD",
    ("md_strict", "both"): "MD alone",
    ("kud", "reports"): "KUD rep.",
    ("kud", "documents"): "KUD doc.",
    ("kud", "both"): "KUD both",
    ("kid", "reports"): "KID rep.",
    ("kid", "documents"): "KID doc.",
    ("kid", "both"): "KID both",
    ("kid", "any"): "KID any",
}
WHAT = (
    "MD: of questions right with their image and evidence, still right with another image (second row: of those that this "
    "image alone does not solve); KUD: of those wrong without evidence, still wrong with it; KID: of those right without, "
    "wrong with it; over-reliance: of those wrong with evidence, right without; same answer: of all answers, right or wrong"
)
HOW = (
    "knowledge: % [{confidence:.0%} interval]/questions that the condition names, by bootstrap over {unit}s, {resamples} "
    "resamples; a share of 0 or 100 has an interval without width, however few the questions; lower is better but for KUD "
    "worded; retrieved -: the retrieved system minus a rival, resampled in pairs, * excludes 0. Another image: "
    "data.knowledge.counter_image {image}. Everything: {file}.json"
)


class KnowledgeTable(EvaluationReport):
    """After a test with `data.knowledge`: ``knowledge.json``, ``knowledge.csv``, ``plots/knowledge.png`` in the run folder, and
    a printed table: how far a reader goes by its image (MD, same answers), uses evidence that it needs (KUD), and withstands
    evidence that misleads (KID, over-reliance), by source of evidence, need and answer type.

    The verb `validate` writes ``knowledge_val.*``. Silent where nothing was asked again: one base config serves all.

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

    def report(self, trainer: L.Trainer, pl_module: L.LightningModule, split: str) -> None:
        """Computes, writes and draws (process 0)."""
        stage = answering_stage(pl_module, self)
        if stage is None or not trainer.is_global_zero or all(p.variant is None for p in stage.predictions):
            return
        data = query_holder(trainer, self)
        asked = {prediction.query_id for prediction in stage.predictions}
        queries = [query for query in data.split_queries(split) if query.id in asked]
        use = knowledge_use(stage.predictions, cluster_of(queries, self.unit), self.bootstrap)
        folder, name, b = run_folder(trainer), "knowledge" if split == "test" else f"knowledge_{split}", self.bootstrap
        image = str(getattr(getattr(data, "knowledge", None), "counter_image", "not known"))
        how = HOW.format(unit=self.unit, resamples=b.resamples, confidence=b.confidence, image=image, file=name)
        write_json(folder / f"{name}.json", {"how": how, "what": WHAT, "counter_image": image, **use.as_json()})
        write_rates(folder / f"{name}.csv", use)
        synthetic = any("synthetic" in query.source.casefold() for query in queries)
        write_bytes(folder / "plots" / f"{name}.png", draw_knowledge(use, image, synthetic))
        self.to_print = render_knowledge(use, how)


def write_rates(path: Path, use: KnowledgeUse) -> None:
    """One line a number, atomically."""
    records = [rate.as_record() for rate in use.rates]
    with atomic_write(path, "w") as stream:
        writer = csv.DictWriter(stream, list(records[0]) if records else ["metric"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


def render_knowledge(use: KnowledgeUse, how: str) -> Group:
    """A table a system (metric by source), one a rival of its differences, one by need and answer type; then notes."""
    systems = list(dict.fromkeys(rate.system for rate in use.rates))
    parts: list[Any] = []
    for system in systems:
        parts += [_table(use, system), Text()]
        if system != RETRIEVED and RETRIEVED in systems:
            parts += [_gaps(use, system), Text()]
    for system in systems:
        parts += [_kinds(use, system), Text()] if any(rate.subset != ALL for rate in use.rates) else []
    return Group(*parts, *(Text(f"- {note}") for note in (how, WHAT, *use.notes, *_missing(use, systems))))


def _table(use: KnowledgeUse, system: str) -> Table:
    found = use.of(system)
    table = new_table(f"{system}, % (lower is better)", list(COLUMNS.values()))
    for metric, words in ROWS.items():
        cells = [_cell(found[metric, source].value) if (metric, source) in found else "" for source in COLUMNS]
        table.add_row(words, *cells)
    return table


def _gaps(use: KnowledgeUse, system: str) -> Table:
    found = use.of(system)
    table = new_table(f"{RETRIEVED} - {system}, %", list(COLUMNS.values()))
    for metric, words in ROWS.items():
        minus = [found[metric, source].reference_minus if (metric, source) in found else None for source in COLUMNS]
        table.add_row(words, *map(gap_cell, minus))
    return table


def _kinds(use: KnowledgeUse, system: str) -> Table:
    """The shares of the questions of each answer type and need, without their intervals."""
    table = new_table(f"{system}, % by need", list(BY_KIND.values()))
    for subset in dict.fromkeys(rate.subset for rate in use.rates if rate.subset != ALL):
        found = {key: rate.value for key, rate in use.of(system, subset).items()}
        if any(found[key].n for key in BY_KIND):
            cells = [f"{100 * found[key].value:.0f}/{found[key].n}" if found[key].n else "-" for key in BY_KIND]
            table.add_row(subset.removeprefix("need "), *cells)
    return table


def _cell(metric: Metric) -> str:
    """``12 [8, 17]/230``; a dash where there is no value."""
    return f"{percent_cell(metric)}/{metric.n}" if metric.n else "-"


def _missing(use: KnowledgeUse, systems: Sequence[str]) -> list[str]:
    """Why a share of all questions has no value: one line a reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for system in systems:
        for (metric, source), rate in use.of(system).items():
            if not rate.value.n:
                found.setdefault((system, rate.value.reason), []).append(f"{metric} ({source})")
    return [f"{system}: {', '.join(names)}: {reason}" for (system, reason), names in found.items()]
