"""How far both sides of preference pairs moved from the reference, kind by kind, as a table and a picture after a fit."""

from __future__ import annotations

import io
from collections.abc import Mapping

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn
from rich import get_console
from rich.console import Console

from callbacks.evaluated import run_folder
from callbacks.evaluation_report import WIDTH
from callbacks.metric_plots import BLUE, GREY, ORANGE, Curve, find_metrics, read_curves, smoothed
from callbacks.table_cells import new_table
from medrag_lightning.artifacts import write_bytes
from medrag_lightning.records import PairKind

COLUMNS = {
    "margin": "margin",
    "accuracy": "accuracy",
    "chosen_logp": "chosen logp",
    "chosen_gain": "gain",
    "rejected_logp": "rejected logp",
    "rejected_gain": "gain",
}
SIDES = {"chosen_gain": ("chosen", BLUE), "rejected_gain": ("rejected", ORANGE)}
NOTE = (
    "nats an answer, means over pairs; gain: over the reference; margin: chosen gain less rejected gain; accuracy: share of "
    "pairs whose margin is positive (half of those at zero)"
)


class PreferenceMargins(L.Callback):
    """After a fit on preference pairs: prints margins, accuracies and log-probabilities of the last validation by kind of pair
    (without one: of the last step), and draws both sides' gains over the run to ``plots/preference_margins.png``.

    Reads the ``metrics.csv`` of the run's CSV logger, so a resumed run is told whole. Process 0 alone.
    """

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prints and draws; ValueError for a stage that is fed something else."""
        if getattr(pl_module, "feed", None) != "preference":
            raise ValueError(
                f"PreferenceMargins reports on preference tuning, and {type(pl_module).__name__} is another stage; remove the "
                "callback from trainer.callbacks"
            )
        if not trainer.is_global_zero:
            return
        path = find_metrics(trainer)
        curves = {} if path is None else read_curves(path)
        if not any(name.endswith("_margin") for name in curves):
            rank_zero_warn(
                "PreferenceMargins found nothing in metrics.csv: add callbacks.csv_logger.AppendingCSVLogger to "
                "trainer.logger, or set a smaller log_every_n_steps"
            )
            return
        console = get_console()
        show(curves, console if console.is_terminal else Console(width=WIDTH))
        write_bytes(run_folder(trainer) / "plots" / "preference_margins.png", draw_margins(curves))


def show(curves: Mapping[str, Curve], console: Console) -> None:
    """Prints a row for each kind of pairs that there is."""
    phase = "val" if any(name.startswith("val/") and name.endswith("_margin") for name in curves) else "train"
    grid = new_table("pairs, last validation" if phase == "val" else "pairs, last step", list(COLUMNS.values()))
    for kind in _kinds(curves):
        last = {name: curves.get(f"{phase}/{kind}_{name}") for name in COLUMNS}
        told = [_cell(name, curve) for name, curve in last.items()]
        grid.add_row(kind.replace("_", " "), *told)
    console.print(grid)
    console.print(NOTE, highlight=False)


def draw_margins(curves: Mapping[str, Curve]) -> bytes:
    """A panel for each kind: gains of the chosen and the rejected side, in training (smoothed) and validation; PNG bytes."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    kinds = _kinds(curves)
    figure = Figure(figsize=(1.2 + 4.0 * len(kinds), 3.8), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.axhline(0, color=GREY, linewidth=1, linestyle="--")
        for name, (side, colour) in SIDES.items():
            if f"train/{kind}_{name}" in curves:
                steps, values = curves[f"train/{kind}_{name}"]
                weight = min(0.9, max(0.0, 1 - 10 / len(values)))
                axes.plot(steps, smoothed(values, weight), color=colour, linewidth=1.4, alpha=0.6, label=f"{side}, train")
            if f"val/{kind}_{name}" in curves:
                axes.plot(*curves[f"val/{kind}_{name}"], color=colour, marker="o", markersize=4, label=f"{side}, validation")
        axes.set(xlabel="optimizer step", title=kind.replace("_", " "))
    panels[0].set_ylabel("gain over the reference (nats an answer)")
    panels[0].legend(framealpha=0.85, edgecolor="none", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _kinds(curves: Mapping[str, Curve]) -> list[str]:
    return [str(kind) for kind in PairKind if any(f"{phase}/{kind}_margin" in curves for phase in ("train", "val"))]


def _cell(name: str, curve: Curve | None) -> str:
    if curve is None:
        return "-"
    value = curve[1][-1]
    return f"{value:+.3f}" if name.endswith(("margin", "gain")) else f"{value:.3f}"
