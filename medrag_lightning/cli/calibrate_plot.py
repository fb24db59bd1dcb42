"""The plot of a calibration: risk by number of candidates with upper bounds, and risk against coverage where it abstains."""

from __future__ import annotations

import io
from typing import Any

from medrag_lightning.calibration import Calibrated, Tested

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#8a8a8a"


def draw(found: Calibrated, risk: str) -> bytes:
    """The plot as PNG."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    abstains = any(not row.policy.plain for row in found.tested)
    figure = Figure(figsize=(11 if abstains else 6, 4), dpi=120, layout="constrained")
    axes = figure.subplots(1, 2 if abstains else 1, squeeze=False)[0]
    plain = [row for row in found.tested if row.policy.plain]
    _by_number(axes[0], plain or list(found.tested), found, risk)
    if abstains:
        _by_coverage(axes[1], found, risk)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _by_number(axes: Any, rows: list[Tested], found: Calibrated, risk: str) -> None:
    """Risk and upper bound of each number of candidates; the best of each number where all abstain."""
    best: dict[int, Tested] = {}
    for row in rows:
        if row.answered and (row.policy.k not in best or row.bound < best[row.policy.k].bound):
            best[row.policy.k] = row
    shown = [best[k] for k in sorted(best)]
    for place, row in enumerate(shown):
        colour = BLUE if row.holds else GREY
        axes.plot([place, place], [row.risk, row.bound], color=colour, linewidth=2)
        axes.plot([place], [row.bound], marker="_", color=colour, markersize=12)
        axes.plot([place], [row.risk], marker="o", color=colour, markersize=7, markerfacecolor=colour if row.holds else "white")
    settings = found.settings
    axes.axhline(settings.alpha, color=ORANGE, linestyle="--", linewidth=1)
    axes.annotate(f"alpha {settings.alpha:g}", (1, settings.alpha), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    axes.set_xticks(range(len(shown)), [str(row.policy.k) for row in shown])
    axes.set_xlabel("candidates read (filled: holds)")
    axes.set_ylabel(f"risk: {risk}, with its upper bound")
    axes.set_title(f"n = {found.units}, all bounds hold with probability {1 - settings.delta:g}", fontsize=10)
    axes.set_ylim(bottom=0)


def _by_coverage(axes: Any, found: Calibrated, risk: str) -> None:
    rows = [row for row in found.tested if row.answered]
    for holds, colour, name in ((False, GREY, "not shown to hold"), (True, BLUE, "holds")):
        mine = [row for row in rows if row.holds == holds]
        face = colour if holds else "none"
        axes.scatter([r.coverage for r in mine], [r.risk for r in mine], s=24, facecolors=face, edgecolors=colour, label=name)
    if found.chosen is not None:
        axes.scatter([found.chosen.coverage], [found.chosen.risk], s=120, facecolors="none", edgecolors=ORANGE, label="taken")
    axes.axhline(found.settings.alpha, color=ORANGE, linestyle="--", linewidth=1)
    axes.set_xlabel("share that is answered")
    axes.set_ylabel(f"risk of what is answered: {risk}")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
