"""What spoilt evidence costs: a curve for each system and kind of noise, drawn, printed and written after a test."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal

import lightning as L
from rich.console import Group
from rich.table import Table
from rich.text import Text

from callbacks.evaluated import answering_stage, query_holder, run_folder
from callbacks.evaluation_report import EvaluationReport
from callbacks.table_cells import gap_cell, new_table, percent_cell
from medrag_lightning.artifacts import atomic_write, write_bytes, write_json
from medrag_lightning.metrics import (
    RETRIEVED,
    Bootstrap,
    LossRatio,
    NoisePoint,
    Unit,
    cluster_of,
    control_predictions,
    noise_curves,
)
from medrag_lightning.metrics import NoiseCurves as Curves
from medrag_lightning.records import NoiseKind

REFERENCES = ("no retrieval", "question-only", "majority")
DRAWN = {"no retrieval": (0, (5, 2)), "majority": (0, (1, 1.5))}  # of the references, with their dashes
METRICS = {"closed_accuracy": "closed accuracy", "closed_macro_f1": "closed macro-F1", "open_token_recall": "open token recall"}
PLOTTED = ("closed_accuracy", "open_token_recall")
AXES = {
    NoiseKind.IRRELEVANT: ("irrelevant evidence", "% of candidates replaced"),
    NoiseKind.CONTRADICTING: ("contradicting evidence", "% of candidates replaced"),
    NoiseKind.DUPLICATED: ("duplicated evidence", "% of candidates replaced"),
    NoiseKind.BLANK_IMAGE: ("blank query image", "% of queries"),
}
SHORT = {
    NoiseKind.IRRELEVANT: "irrelevant",
    NoiseKind.CONTRADICTING: "contradicting",
    NoiseKind.DUPLICATED: "duplicated",
    NoiseKind.BLANK_IMAGE: "blank image",
}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARKERS, DASHES, GREY = "osD^vP*", ("-", "--", "-."), "#8a8a8a"
SCORES = {
    "kept": "New evidence has the score of what it replaces: retrieval does not notice",
    "own": "New evidence has the score that its system's source gives it",
}
HOW = (
    "noise: [{confidence:.0%} interval] by bootstrap over {unit}s, {resamples} resamples; change from the same queries without "
    "noise, resampled in pairs; * excludes 0; n: queries. Every share, macro-F1 and the losses compared: {file}.json"
)


class NoiseCurves(EvaluationReport):
    """After a test with `data.noise`: ``noise.json``, ``noise.csv``, ``plots/noise.png`` in the run folder, and a short table.

    A line a system, a panel a kind of noise, majority and no retrieval as reference lines; all points of a panel are of the
    same queries. The verb `validate` writes ``noise_val.*``. Silent where no evidence was spoilt: one base config serves all.

    Args:
        baseline: the system that the others' losses are held against (`metrics.LossRatio`): ``retrieved`` or a rival's name.
        resampling_unit: what the bootstrap draws; questions about one patient are drawn together by default.
        resamples: how many.
        confidence: of the intervals.
        seed: of the bootstrap.
    """

    def __init__(
        self,
        baseline: str = RETRIEVED,
        resampling_unit: Literal["patient", "study", "image", "query"] = "patient",
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> None:
        self.baseline, self.unit = baseline, Unit(resampling_unit)
        self.bootstrap = Bootstrap(resamples, confidence, seed)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses a baseline that is no system of the test, before time is spent."""
        data = getattr(trainer, "datamodule", None)
        if stage != "test" or getattr(data, "noise", None) is None or answering_stage(pl_module, self) is None:
            return
        systems = [RETRIEVED, *getattr(data, "rivals", {})]
        if self.baseline not in systems:
            raise ValueError(f"NoiseCurves.baseline={self.baseline!r} is no system of this test; the systems are {systems}")

    def report(self, trainer: L.Trainer, pl_module: L.LightningModule, split: str) -> None:
        """Computes, writes and draws (process 0)."""
        stage = answering_stage(pl_module, self)
        if stage is None or not trainer.is_global_zero or all(p.noise is None for p in stage.predictions):
            return
        data = query_holder(trainer, self)
        asked = {prediction.query_id for prediction in stage.predictions}
        queries = [query for query in data.split_queries(split) if query.id in asked]
        controls, _ = control_predictions(data.split_queries("train"), queries)
        clusters, predictions = cluster_of(queries, self.unit), [*stage.predictions, *controls]
        curves = noise_curves(predictions, clusters, self.bootstrap, self.baseline, REFERENCES)
        folder, name = run_folder(trainer), "noise" if split == "test" else f"noise_{split}"
        b = self.bootstrap
        how = HOW.format(unit=self.unit, resamples=b.resamples, confidence=b.confidence, file=name)
        scores = str(getattr(getattr(data, "noise", None), "scores", "kept"))
        how = f"{how}. {SCORES[scores]}"
        head = {"how": how, "scores": scores, "baseline": self.baseline}
        write_json(folder / f"{name}.json", {**head, **curves.as_json()})
        write_curves(folder / f"{name}.csv", curves)
        synthetic = any("synthetic" in query.source.casefold() for query in queries)
        write_bytes(folder / "plots" / f"{name}.png", draw_noise(curves, synthetic, SCORES[scores]))
        self.to_print = render_noise(curves, how)


def write_curves(path: Path, curves: Curves) -> None:
    """One line a point, references included, atomically."""
    records = [point.as_record() for point in (*curves.points, *curves.references)]
    with atomic_write(path, "w") as stream:
        writer = csv.DictWriter(stream, list(records[0]) if records else ["kind"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


def render_noise(curves: Curves, how: str) -> Group:
    """A table a metric: the value without noise and its change at the largest share of each kind; then the losses compared."""
    parts: list[Any] = []
    for metric in PLOTTED:
        largest = _largest(metric, curves)
        if largest:
            parts += [_changes(metric, largest, curves), Text()]
            if any(ratio.metric == metric for ratio in curves.ratios):
                parts += [_losses(metric, largest, curves), Text()]
    return Group(*parts, *(Text(f"- {note}") for note in (how, *curves.notes)))


def _largest(metric: str, curves: Curves) -> dict[NoiseKind, float]:
    """The largest share of each kind that there is."""
    shares: dict[NoiseKind, float] = {}
    for point in curves.points:
        if point.metric == metric:
            shares[point.kind] = max(point.share, shares.get(point.kind, 0.0))
    return shares


def _changes(metric: str, largest: Mapping[NoiseKind, float], curves: Curves) -> Table:
    """Without noise each kind may be of other queries (``n``); the value shown is of the kind with the most."""
    at = {(p.kind, p.system, p.share): p for p in (*curves.points, *curves.references) if p.metric == metric}
    widest = max(largest, key=lambda kind: max(p.value.n for p in curves.points if p.metric == metric and p.kind is kind))
    heads = [f"{SHORT[kind]} {share:.0%}" for kind, share in largest.items()]
    table = new_table(f"{METRICS[metric]} %", ["no noise", *heads])
    for system in dict.fromkeys(p.system for p in curves.points):
        found = [at.get((kind, system, share)) for kind, share in largest.items()]
        clean = at.get((widest, system, 0.0))
        cells = ["-" if point is None else gap_cell(point.change) for point in found]
        table.add_row(system, "-" if clean is None else percent_cell(clean.value), *cells)
    for system in dict.fromkeys(p.system for p in curves.references):
        clean = at.get((widest, system, 0.0))
        table.add_row(system, "-" if clean is None else percent_cell(clean.value), *("" for _ in largest), style="dim")
    counts = [str(next(p.value.n for p in curves.points if p.metric == metric and p.kind is kind)) for kind in largest]
    table.add_row("n", counts[list(largest).index(widest)], *counts, style="dim")
    return table


def _losses(metric: str, largest: Mapping[NoiseKind, float], curves: Curves) -> Table:
    ratios = {(r.kind, r.system, r.share): r for r in curves.ratios if r.metric == metric}
    baseline = next(iter(ratios.values())).baseline
    heads = [f"{SHORT[kind]} {share:.0%}" for kind, share in largest.items()]
    table = new_table(f"loss, % of that of {baseline}", heads)
    for system in dict.fromkeys(r.system for r in ratios.values()):
        table.add_row(system, *(_ratio(ratios.get((kind, system, share))) for kind, share in largest.items()))
    return table


def _ratio(found: LossRatio | None) -> str:
    """In percent; ``< half`` where the whole interval says so."""
    if found is None:
        return "-"
    if found.ratio.value != found.ratio.value:
        return "(none to lose)"
    return percent_cell(found.ratio) + (" < half" if found.beyond_half.high < 0 else "")


def draw_noise(curves: Curves, synthetic: bool = False, subtitle: str = "") -> bytes:
    """A row of panels a metric, a panel a kind, a line with intervals a system; PNG bytes."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    kinds = [kind for kind in NoiseKind if any(p.kind is kind and p.metric in PLOTTED for p in curves.points)]
    rows = [metric for metric in PLOTTED if any(p.metric == metric for p in curves.points)]
    systems = list(dict.fromkeys(point.system for point in curves.points))
    widths = [_width(kind, curves) for kind in kinds]
    size = (1.2 + 2.9 * sum(widths), 1.1 + 2.9 * len(rows) + 0.09 * len(systems))
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    grid = figure.subplots(len(rows), len(kinds), squeeze=False, sharey="row", width_ratios=widths)
    for metric, line in zip(rows, grid, strict=True):
        for kind, axes in zip(kinds, line, strict=True):
            _panel(axes, kind, metric, curves, systems)
        line[0].set_ylabel(f"{METRICS[metric]} (%)")
    for kind, axes in zip(kinds, grid[0], strict=True):
        axes.set_title(AXES[kind][0], fontsize=10)
    handles = {label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    order = [name for name in (*systems, *DRAWN) if name in handles]
    columns = min(4, len(order))
    figure.legend([handles[n] for n in order], order, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    title = "Answers under spoilt evidence" + (" (SYNTHETIC DATA)" if synthetic else "")
    figure.suptitle("\n".join([title, *wrap(subtitle, int(13 * size[0]))]), fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _width(kind: NoiseKind, curves: Curves) -> float:
    """Narrow where there is one share only."""
    return 1.0 if len({p.share for p in curves.points if p.kind is kind}) > 2 else 0.55


def _panel(axes: Any, kind: NoiseKind, metric: str, curves: Curves, systems: Sequence[str]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    mine = [point for point in curves.points if point.kind is kind and point.metric == metric]
    if not mine:
        axes.text(0.5, 0.5, "no such questions", ha="center", va="center", transform=axes.transAxes, fontsize=8, color=GREY)
    for point in curves.references:
        if point.kind is kind and point.metric == metric and point.system in DRAWN:
            style = {"color": GREY, "linestyle": DRAWN[point.system], "linewidth": 1.3, "label": point.system}
            axes.axhline(100 * point.value.value, zorder=1, **style)
    shares = sorted({100 * point.share for point in mine})
    gap = min((min(b - a, (shares[-1] - shares[0]) / 5) for a, b in pairwise(shares)), default=1.0)
    for place, system in enumerate(systems):
        _line(axes, [p for p in mine if p.system == system], system, place, len(systems), gap)
    axes.set_xticks(shares, [f"{share:g}" for share in shares])
    if mine:
        axes.text(0.03, 0.03, f"n = {mine[0].value.n}", transform=axes.transAxes, fontsize=8, color=GREY)
    axes.margins(x=0.2 if len(shares) <= 2 else 0.06)
    axes.set_xlabel(AXES[kind][1], fontsize=9)
    axes.tick_params(labelsize=9)


def _line(axes: Any, points: Sequence[NoisePoint], system: str, place: int, systems: int, gap: float) -> None:
    """One system's points, a little beside those of the others so that their intervals can be told apart."""
    if not points:
        return
    shift = 0.0 if systems == 1 else min(0.07, 0.5 / systems) * gap * (place - (systems - 1) / 2)
    x, y = [100 * point.share + shift for point in points], [100 * point.value.value for point in points]
    ends = [[100 * (p.value.value - p.value.low) for p in points], [100 * (p.value.high - p.value.value) for p in points]]
    whiskers = [[max(0.0, end) if end == end else 0.0 for end in side] for side in ends]
    axes.errorbar(
        x, y, yerr=whiskers, color=COLOURS[place % len(COLOURS)], marker=MARKERS[place % len(MARKERS)], markersize=4.5,
        linestyle=DASHES[place // len(COLOURS) % len(DASHES)], linewidth=1.6, elinewidth=0.9, capsize=2, label=system, zorder=3,
    )  # fmt: skip
