"""Learning curves of the run, and of the steps of its recipe."""

from __future__ import annotations

import math

from medrag_lightning.handoff.report.cells import words
from medrag_lightning.handoff.report.chart import Axis, Plot, legend, panels
from medrag_lightning.handoff.report.markup import Html, folded, joined, tag
from medrag_lightning.handoff.report.material import Material
from medrag_lightning.handoff.report.run_files import Curve, Run
from medrag_lightning.handoff.report.section import Section

MOST_POINTS = 400
LEAST_POINTS = 2
NOT_LEARNING = ("samples_per_second", "tokens_per_second", "seconds")
SHORT = "python -m medrag_lightning fit -c ... --trainer.log_every_n_steps 1"
FIT = "python -m medrag_lightning fit -c ... (its metrics.csv is read)"


def curves_section(material: Material) -> Section:
    """For each run that trained: the loss, then every validation metric."""
    title = "Learning curves"
    runs = [run for run in (*material.found.steps, material.run) if (run.folder / "metrics.csv").is_file()]
    drawn = [(run, shown) for run in runs if (shown := _of(run))]
    if not drawn:
        short = next((run for run in runs if _trained(run)), None)
        if short is not None:
            every = short.setting("trainer", "log_every_n_steps")
            told = f"; training values come every {every} steps (trainer.log_every_n_steps)" if every else ""
            why = f"the fit logged fewer than {LEAST_POINTS} values of each metric, too few for a curve{told}"
            return Section.absent("curves", title, why, SHORT)
        reason = "this run trained nothing" if runs else "the run has no metrics.csv"
        return Section.absent("curves", title, f"{reason}; give the folder of the fit, or of the whole recipe", FIT)
    if len(drawn) == 1:
        return Section("curves", title, drawn[0][1])
    parts = [folded(tag("b", run.name), shown, is_open=number == 0) for number, (run, shown) in enumerate(drawn)]
    return Section("curves", title, joined(parts))


def _of(run: Run) -> Html | None:
    curves = {name: thinned(curve) for name, curve in run.curves().items() if len(curve) >= LEAST_POINTS}
    losses = [name for name in ("train/loss", "val/loss") if name in curves]
    plots = [_plot("loss", {name: curves[name] for name in losses})] if losses else []
    for name, curve in curves.items():
        kind, _, metric = name.partition("/")
        before = curves.get(f"val/frozen_{metric}")
        told = kind == "val" and metric != "loss" and not metric.startswith("frozen_") and not metric.endswith(NOT_LEARNING)
        if told and len({value for _, value in curve}) > 1:
            plots.append(_plot(words(metric), {metric: curve, **({"before training": before} if before else {})}))
    if not plots:
        return None
    first, *others = plots
    more = folded(f"{len(others)} validation metrics", panels(*others), is_open=len(others) <= 6) if others else None
    return joined([panels(first), legend(losses) if losses else None, more])


def _trained(run: Run) -> bool:
    """Whether it is a fit, however short: it logged a training value or kept checkpoints."""
    return any((run.folder / "checkpoints").glob("*.ckpt")) or any(name.startswith("train/") for name in run.curves())


def _plot(title: str, curves: dict[str, Curve]) -> Html:
    steps = [step for curve in curves.values() for step, _ in curve]
    values = [value for curve in curves.values() for _, value in curve]
    plot = Plot(title, Axis("step", min(steps), max(steps)), Axis.around("", values))
    for place, (name, curve) in enumerate(curves.items()):
        plot.line(curve, place, dashed=name == "before training", words=name)
        if len(curve) <= 30:
            for step, value in curve:
                plot.dot(step, value, place, f"{name} at step {step:g}: {value:.4g}", radius=2.5)
    return plot.svg()


def thinned(curve: Curve, most: int = MOST_POINTS) -> Curve:
    """The same curve with at most so many points: means of neighbours where there are more."""
    if len(curve) <= most:
        return curve
    size = math.ceil(len(curve) / most)
    groups = [curve[start : start + size] for start in range(0, len(curve), size)]
    return [(sum(s for s, _ in group) / len(group), sum(v for _, v in group) / len(group)) for group in groups]
