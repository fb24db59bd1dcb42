"""Pictures of a run in its folder: the loss, every validation metric; of a test, reliability and what evidence did."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from callbacks.evaluated import AnsweringStage, run_folder
from medrag_lightning.artifacts import write_bytes
from medrag_lightning.metrics import Account, by_system, closed_calibration, ledger_of, reliability_bins

Curve = tuple[list[int], list[float]]
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#8a8a8a"
LOWER_IS_BETTER = re.compile(r"loss|ece|invalid|nll|perplexity|error")
SHARES = re.compile(r"accuracy|f1|recall|precision|exact|invalid|ece|mrr")
SHOWN = ("retrieved", "no retrieval")  # in the reliability diagram, where there are these
ACRONYMS = {"f1": "F1", "ece": "ECE", "nll": "NLL", "mrr": "MRR"}
BEFORE = "val/frozen_"  # a stage's number of what was before training
LOSS_UNIT = "answer NLL (nats per token)"  # of a stage that names no `loss_unit` of its own


class MetricPlots(L.Callback):
    """Draws ``loss.png`` and a plot for each validation metric after a fit (process 0). After a test of a stage that answers
    queries: ``reliability.png``, and ``ledger.png`` with the questions that evidence turned right or wrong.

    A metric ``val/frozen_NAME``, what was before training, is a dashed line on the plot of ``val/NAME``; one that never changes
    gets no plot. Reads the ``metrics.csv`` of the run's CSV logger, so a resumed run is drawn whole.

    Args:
        folder: where to; by default ``plots`` in the run folder.
        smoothing: weight of the past in the smoothed training loss, in [0, 1); 0 for none. A short curve is smoothed less.
    """

    def __init__(self, folder: str | None = None, smoothing: float = 0.9) -> None:
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
        self.folder, self.smoothing = folder, smoothing

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draws the curves."""
        if not trainer.is_global_zero:
            return
        path = find_metrics(trainer)
        if path is None:
            rank_zero_warn("MetricPlots found no metrics.csv: add callbacks.csv_logger.AppendingCSVLogger to trainer.logger")
            return
        curves = read_curves(path)
        unit = str(getattr(pl_module, "loss_unit", LOSS_UNIT))
        if any("loss" in name for name in curves):
            write_bytes(self._folder(trainer) / "loss.png", draw_loss(curves, self.smoothing, unit))
        for name, curve in curves.items():
            if name.startswith("val/") and name != "val/loss" and not name.startswith(BEFORE) and not _settled(curve):
                file = re.sub(r"[^\w]+", "_", name) + ".png"
                write_bytes(self._folder(trainer) / file, draw_metric(name, curve, curves.get(_before(name))))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draws the ledger, and the reliability diagram of the closed answers, if they carry probabilities."""
        if not trainer.is_global_zero or not isinstance(pl_module, AnsweringStage):
            return
        systems = by_system(pl_module.predictions)
        shown = [name for name in SHOWN if name in systems] or list(systems)
        scored = {name: points for name in shown if (points := closed_calibration(systems[name]))[0]}
        if scored:
            write_bytes(self._folder(trainer) / "reliability.png", draw_reliability(scored))
        accounts = ledger_of(systems).accounts
        if accounts:
            write_bytes(self._folder(trainer) / "ledger.png", draw_ledger(accounts))

    def _folder(self, trainer: L.Trainer) -> Path:
        return Path(self.folder) if self.folder else run_folder(trainer) / "plots"


def find_metrics(trainer: L.Trainer) -> Path | None:
    """The ``metrics.csv`` that a logger of this run writes, its rows flushed."""
    for logger in trainer.loggers:
        logger.save()
        for folder in (logger.log_dir, logger.save_dir):
            if folder is not None and (Path(folder) / "metrics.csv").is_file():
                return Path(folder) / "metrics.csv"
    return None


def read_curves(path: Path) -> dict[str, Curve]:
    """Steps and values of every column, by name; a train column's ``_step`` suffix is dropped. Not finite: left out."""
    curves: dict[str, Curve] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            for name, text in row.items():
                if name not in ("step", "epoch") and text:
                    value = float(text)
                    if math.isfinite(value):
                        steps, values = curves.setdefault(name.removesuffix("_step"), ([], []))
                        steps.append(int(row["step"]))
                        values.append(value)
    return curves


def smoothed(values: Sequence[float], weight: float) -> list[float]:
    """Exponential moving average without the pull towards its start (bias-corrected, as Adam does it)."""
    average, out = 0.0, []
    for i, value in enumerate(values, start=1):
        average = weight * average + (1 - weight) * value
        out.append(average / (1 - weight**i))
    return out


def draw_loss(curves: dict[str, Curve], smoothing: float, unit: str = LOSS_UNIT) -> bytes:
    """Training loss, raw and smoothed, and validation loss with its minimum marked; PNG bytes."""
    figure, axes = _figure()
    if "train/loss" in curves:
        steps, values = curves["train/loss"]
        axes.plot(steps, values, color=BLUE, alpha=0.25, linewidth=1, label="train, each logged step")
        weight = min(smoothing, max(0.0, 1 - 10 / len(values)))  # averages over no more than a tenth of the curve
        label = f"train, smoothed (weight of the past {weight:.2g})"
        axes.plot(steps, smoothed(values, weight), color=BLUE, linewidth=1.8, label=label)
    if "val/loss" in curves:
        _points(axes, curves["val/loss"], "validation", lower_is_better=True)
        _reference(axes, curves.get(_before("val/loss")))
    axes.set(xlabel="optimizer step", ylabel=unit, title="Loss")
    axes.set_ylim(bottom=0)
    axes.legend(framealpha=0.85, edgecolor="none", fontsize=9)
    return _png(figure)


def draw_metric(name: str, curve: Curve, before: Curve | None = None) -> bytes:
    """One validation metric over the run, the best value marked, and what was before training; PNG bytes."""
    figure, axes = _figure()
    readable = " ".join(ACRONYMS.get(word, word) for word in name.removeprefix("val/").split("_"))
    _points(axes, curve, "validation", lower_is_better=bool(LOWER_IS_BETTER.search(name)))
    _reference(axes, before)
    unit = " (share, 0 to 1)" if SHARES.search(name) else ""
    axes.set(xlabel="optimizer step", ylabel=f"{readable}{unit}", title=f"Validation {readable}")
    if unit:
        axes.set_ylim(-0.02, 1.02)
    axes.legend(framealpha=0.85, edgecolor="none", fontsize=9)
    return _png(figure)


def draw_reliability(systems: dict[str, tuple[list[float], list[float]]]) -> bytes:
    """Accuracy against top-choice probability in 15 bins; the area of a dot grows with the answers in its bin. PNG bytes."""
    figure, axes = _figure(width=5.6, height=5.2)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="perfectly calibrated")
    styles = ((BLUE, "o"), (ORANGE, "s"), ("#009e73", "^"), ("#cc79a7", "D"), ("#56b4e9", "v"))
    for (name, (probability, outcome)), (colour, marker) in zip(systems.items(), styles, strict=False):
        bins = [b for b in reliability_bins(probability, outcome) if b.count]
        total = sum(b.count for b in bins)
        error = sum(b.count / total * abs(b.accuracy - b.mean_probability) for b in bins)
        x, y = [b.mean_probability for b in bins], [b.accuracy for b in bins]
        axes.plot(x, y, color=colour, linewidth=1, alpha=0.5)
        sizes = [12 + 300 * b.count / total for b in bins]
        label = f"{name}: ECE {error:.3f}, n = {total}"
        axes.scatter(x, y, s=sizes, color=colour, marker=marker, alpha=0.75, linewidth=0)
        axes.plot([], [], color=colour, marker=marker, markersize=5, label=label)
    axes.set(xlim=(0, 1.02), ylim=(-0.02, 1.02), title="Reliability of closed answers (test)", ylabel="share correct")
    axes.set_xlabel("probability of the top choice (dot area: answers in the bin)")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return _png(figure)


def draw_ledger(accounts: Mapping[str, Account]) -> bytes:
    """Share of questions that each system's evidence turned right (to the right) and wrong (to the left); PNG bytes."""
    figure, axes = _figure(height=1.6 + 0.45 * len(accounts))
    for row, account in enumerate(accounts.values()):
        total = account.helped + account.hurt + account.unchanged
        sides = ((account.helped, 1, BLUE, "turned right"), (account.hurt, -1, ORANGE, "turned wrong"))
        for count, side, colour, label in sides:
            share = 100 * count / total
            axes.barh(row, side * share, color=colour, height=0.6, label=label if row == 0 else None)
            place = {"ha": "left" if side > 0 else "right", "va": "center", "fontsize": 9}
            axes.annotate(f" {count} ", (side * share, row), **place)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(accounts)), list(accounts))
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel="% of questions (turned wrong to the left)", title="What evidence changed, against no retrieval (test)")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return _png(figure)


def _points(axes: Any, curve: Curve, label: str, lower_is_better: bool) -> None:
    steps, values = curve
    best = values.index(min(values) if lower_is_better else max(values))
    axes.plot(steps, values, color=ORANGE, marker="o", markersize=4, linewidth=1.2, label=label)
    axes.plot(
        [steps[best]], [values[best]], color=ORANGE, marker="*", markersize=15, markeredgecolor="white", linestyle="",
        label=f"best {values[best]:.4g} at step {steps[best]}",
    )  # fmt: skip


def _before(name: str) -> str:
    return BEFORE + name.removeprefix("val/")


def _settled(curve: Curve) -> bool:
    """Whether a metric was the same at several validations: a setting, or what training cannot change."""
    return len(curve[1]) > 1 and len(set(curve[1])) == 1


def _reference(axes: Any, before: Curve | None) -> None:
    if before is not None:
        axes.plot(*before, color=GREY, linestyle="--", linewidth=1.2, label=f"before training {before[1][-1]:.4g}")


def _figure(width: float = 7.0, height: float = 4.2) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
