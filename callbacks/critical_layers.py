"""What calibration found, kept: the curves and layers as JSON, a config file that uses them, and a picture."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
import yaml
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from callbacks.evaluated import run_folder
from medrag_lightning.artifacts import atomic_write, write_bytes, write_json
from medrag_lightning.metrics import CriticalLayers, LayerCurve, Metric

STYLES = (("#0072b2", "o", "-"), ("#d55e00", "s", "--"), ("#009e73", "^", "-."), ("#cc79a7", "D", (0, (4, 1.5))))
NAMES = {
    "evidence_to_question": "evidence → question",
    "image_to_question": "image → question",
    "evidence_to_last": "evidence → last token",
    "question_to_last": "question → last token",
}
STEERED = "evidence_to_question"
GREY = "#8a8a8a"


@runtime_checkable
class CalibratingStage(Protocol):
    """A stage that finds critical layers; None until it has."""

    found: CriticalLayers | None


class CriticalLayersWriter(L.Callback):
    """Writes to the run folder, after `predict` of stage critical_layers (process 0):

    ``critical_layers.json`` (fingerprint of the reader, curves with intervals, layers of each direction),
    ``steering_layers.yaml`` (a config file for stage reader_raft: ``layers: critical`` of its steering then means those in the
    JSON file; read with ``-c``), and ``critical_layers.png``. Meanwhile it tells how far the measurement is: the progress bar
    counts batches, and one of a large reader takes minutes.

    Args:
        seconds_between_lines: shortest time between two lines about that.
    """

    def __init__(self, seconds_between_lines: float = 60.0) -> None:
        if seconds_between_lines < 0:
            raise ValueError(f"seconds_between_lines must be at least 0, got {seconds_between_lines}")
        self.seconds_between_lines = seconds_between_lines
        self._began = self._told_at = 0.0
        self._samples = 0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self._began = self._told_at = time.monotonic()
        self._samples = 0

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Tells how many samples are measured, and how long the rest takes at this pace."""
        self._samples += len(outputs)
        now = time.monotonic()
        if now - self._told_at < self.seconds_between_lines or not self._samples:
            return
        self._told_at = now
        wanted: int | None = getattr(pl_module, "max_samples", None)
        batches = (batch_idx + 1) / sum(trainer.num_predict_batches)
        done = max(batches, self._samples * trainer.world_size / wanted if wanted else 0.0)
        left = timedelta(seconds=round((now - self._began) * max(0.0, 1 / done - 1)))
        of = "" if wanted is None else f" of {wanted} at most"
        rank_zero_info(f"measured about {self._samples * trainer.world_size} samples{of}, ETA {left}")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes and tells what was found."""
        if not isinstance(pl_module, CalibratingStage) or pl_module.found is None:
            raise ValueError(f"CriticalLayersWriter writes what stage critical_layers finds, not {type(pl_module).__name__}")
        if not trainer.is_global_zero:
            return
        found, folder = pl_module.found, run_folder(trainer)
        write_json(folder / "critical_layers.json", found.as_json())
        write_fragment(folder / "steering_layers.yaml", folder / "critical_layers.json")
        write_bytes(folder / "critical_layers.png", draw_layers(found))
        for curve in found.curves:
            tell = rank_zero_warn if curve.reason and curve.direction == STEERED else rank_zero_info
            tell(f"critical layers, {NAMES.get(curve.direction, curve.direction)}: {_told(curve)}")
        rank_zero_info(
            f"measured on {found.samples} of {found.asked} questions, answered rightly, of {found.patients} patients; "
            f"for runs that steer add -c {folder / 'steering_layers.yaml'}"
        )


def write_fragment(path: Path, layers: Path) -> None:
    """Writes the config file that names the file of critical layers."""
    with atomic_write(path, "w") as stream:
        yaml.safe_dump({"model": {"init_args": {"critical_layers": str(layers)}}}, stream)


def draw_layers(found: CriticalLayers) -> bytes:
    """A curve a direction over the window's centre with interval bands, and below it the layers chosen; PNG bytes."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    count = len(found.layer_windows)
    figure = Figure(figsize=(7.6, 4.9), dpi=130, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(5, 0.35 * len(found.curves)))
    for curve, style in _styled(found.curves):
        _curve(above, curve, *style)
    _chosen(above, below, found.curves)
    above.axhline(0, color=GREY, linewidth=1)
    above.set_ylabel("change of the right answer's\nfirst-token probability (%)")
    width = max(map(len, found.layer_windows))
    b = found.rule.bootstrap
    of = f"{width} layer{'s' * (width > 1)} of {count} blocked at a time"
    above.set_title(f"What blocked attention costs the right answer ({of})", fontsize=11)
    low, high = above.get_ylim()
    above.set_ylim(min(low, -10), max(high, 3))  # a flat curve is to look flat
    above.legend(framealpha=0.85, edgecolor="none", fontsize=9)
    below.set_xlabel(
        f"decoder layer at the window's centre\n{found.samples} questions answered rightly, {found.patients} patients; "
        f"bands: {b.confidence:.0%} bootstrap by patient",
    )
    below.set_xlim(-0.6, count - 0.4)
    below.xaxis.get_major_locator().set_params(integer=True)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y" if axes is above else "x", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _styled(curves: Sequence[LayerCurve]) -> list[tuple[LayerCurve, tuple[str, str, Any]]]:
    """Each direction in its own style, whichever others there are."""
    known = list(NAMES)
    return [(curve, STYLES[known.index(curve.direction) % len(STYLES)]) for curve in curves]


def _curve(axes: Any, curve: LayerCurve, colour: str, marker: str, dashes: Any) -> None:
    centres = range(len(curve.first_token))
    axes.fill_between(
        centres, _percent(curve.first_token, "low"), _percent(curve.first_token, "high"), color=colour, alpha=0.18, linewidth=0
    )
    label = NAMES.get(curve.direction, curve.direction)
    every = max(1, len(curve.first_token) // 16)
    axes.plot(
        centres, _percent(curve.first_token, "value"), color=colour, marker=marker, markersize=5, markevery=every,
        linewidth=1.6, linestyle=dashes, label=label,
    )  # fmt: skip


def _chosen(above: Any, below: Any, curves: Sequence[LayerCurve]) -> None:
    """The layers that steering uses as a shade behind the curves; those of every direction as a strip below."""
    for row, (curve, (colour, _, _)) in enumerate(_styled(curves)):
        for layer in curve.layers:
            below.barh(row, 1, left=layer - 0.5, height=0.7, color=colour, alpha=0.85, linewidth=0)
            if curve.direction == STEERED:
                label = "critical layers, to be steered" if layer == curve.layers[0] else None
                above.axvspan(layer - 0.5, layer + 0.5, color=colour, alpha=0.1, linewidth=0, label=label)
        if not curve.layers:
            below.annotate("none", (0.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=GREY)
    below.set_yticks(range(len(curves)), [NAMES.get(curve.direction, curve.direction) for curve in curves], fontsize=8)
    below.set_ylim(len(curves) - 0.4, -0.6)
    below.set_title("critical layers", fontsize=9, loc="left")


def _percent(metrics: Sequence[Metric], end: str) -> list[float]:
    return [100 * getattr(metric, end) for metric in metrics]


def _told(curve: LayerCurve) -> str:
    if not curve.layers:
        return f"none; {curve.reason}"
    worst = min(curve.first_token, key=lambda metric: metric.value)
    return f"{list(curve.layers)}; worst window {worst.value:.1%} [{worst.low:.1%}, {worst.high:.1%}]"
