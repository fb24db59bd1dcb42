"""The picture of attention mass: a panel a system, layers from left to right."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

STYLES = {
    "evidence": ("#0072b2", "o", "-"),
    "query_image": ("#d55e00", "s", "-"),
    "question": ("#009e73", "^", "-"),
    "rest": ("#8a8a8a", "", "--"),
}
WORDS = {"query_image": "query image", "rest": "rest (instruction, template)"}
MOST_COLUMNS = 4
LEAST_SPAN = 4.0  # percentage points of the documents' axis
MOST_BANDS = 8  # with more documents bands and legend would hide the curves
Z_95 = 1.96


def draw_mass(table: Mapping[str, Any]) -> bytes:
    """Above, the share of attention on each segment; below, on each document, where systems show several. PNG bytes.

    Systems whose evidence was spoilt on purpose are left to the table. Bands: mean +- 1.96 standard errors.
    """
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    systems = [system for system in table["systems"] if system["noise"] is None] or list(table["systems"])
    several = [system for system in systems if len(system["documents"]) > 1]
    columns = min(MOST_COLUMNS, len(systems))
    rows = [math.ceil(len(block) / columns) for block in (systems, several) if block]
    width = max(6.4, 3.1 * columns + 0.5)
    figure = Figure(figsize=(width, 0.9 + sum(2.5 * count + 0.7 for count in rows)), dpi=130, layout="constrained")
    blocks = figure.subfigures(len(rows), 1, height_ratios=[count + 0.35 for count in rows], squeeze=False)[:, 0]
    layers = int(table["layers"])
    _segments(blocks[0], systems, rows[0], columns, layers)
    if several:
        _documents(blocks[1], several, rows[1], columns, layers)
    split = {"val": "validation"}.get(table["split"], table["split"])
    figure.suptitle(f"Where the question's tokens look ({split})\nmeans with 95 % intervals", fontsize=11.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _segments(block: Any, systems: Sequence[Mapping[str, Any]], rows: int, columns: int, layers: int) -> None:
    panels = _panels(block, systems, rows, columns, layers)
    for axes, system in panels:
        for name, curve in system["segments"].items():
            colour, marker, line = STYLES[name]
            _line(axes, curve, colour, marker, line, layers, WORDS.get(name, name))
    panels[0][0].set_ylim(0, None)  # shared, and after all curves: it ends autoscaling
    block.supylabel("share of attention (%)", fontsize=10)
    block.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def _documents(block: Any, systems: Sequence[Mapping[str, Any]], rows: int, columns: int, layers: int) -> None:
    from matplotlib import colormaps

    most = max(document["number"] for system in systems for document in system["documents"])
    colours = [colormaps["viridis"](0.9 * k / max(most - 1, 1)) for k in range(most)]
    panels = _panels(block, systems, rows, columns, layers)
    handles: dict[str, Any] = {}
    for axes, system in panels:
        for document in system["documents"]:
            number = document["number"]
            label = f"document {number}" + (" (shown first)" if number == 1 else "")
            style = (colours[number - 1], "os^Dv"[(number - 1) % 5], "-")
            handles[label] = _line(axes, document, *style, layers, label, band=most <= MOST_BANDS)
    low, high = panels[0][0].get_ylim()  # does not begin at 0: documents differ by little
    spare = max(0.0, LEAST_SPAN - (high - low)) / 2
    panels[0][0].set_ylim(max(0.0, low - spare), high + spare)
    block.supylabel("on each document (%)", fontsize=10)
    labels = list(handles)
    kept = labels if most <= MOST_BANDS else [labels[i] for i in (0, most // 2, most - 1)]
    lines = [handles[label] for label in kept]
    block.legend(lines, kept, loc="outside lower center", ncols=5 if columns > 2 else 3, frameon=False, fontsize=9)


def _panels(
    block: Any, systems: Sequence[Mapping[str, Any]], rows: int, columns: int, layers: int
) -> list[tuple[Any, Mapping[str, Any]]]:
    """An axis a system with title, grid and the steered layers shaded; spare ones are taken away."""
    some_steered = any(system["steering"] is not None for system in systems)
    grid = block.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    cells = [axes for row in grid for axes in row]
    for axes in cells[len(systems) :]:
        axes.remove()
    for place, (axes, system) in enumerate(zip(cells, systems, strict=False)):
        axes.set_title(_title(system, some_steered), fontsize=9.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlim(-0.5, layers - 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.tick_params(labelsize=8.5)
        if place + columns >= len(systems):
            axes.set_xlabel("decoder layer", fontsize=9)
            axes.tick_params(labelbottom=True)
        for layer in _steered(system, layers):
            axes.axvspan(layer - 0.5, layer + 0.5, color="#f0e442", alpha=0.25, linewidth=0)
    return list(zip(cells, systems, strict=False))


def _line(
    axes: Any, curve: Mapping[str, Any], colour: Any, marker: str, line: str, layers: int, label: str, band: bool = True
) -> Any:
    mean = [100 * value for value in curve["mean"]]
    error = [None if value is None else 100 * Z_95 * value for value in curve["standard_error"]]
    known = all(value is not None for value in error)
    if layers == 1:  # a point has no band
        axes.errorbar([0], mean, yerr=error if known else None, color=colour, capsize=4, linewidth=1.2)
    elif band and known:
        low = [m - e for m, e in zip(mean, error, strict=True) if e is not None]
        high = [m + e for m, e in zip(mean, error, strict=True) if e is not None]
        axes.fill_between(range(layers), low, high, color=colour, alpha=0.2, linewidth=0)
    every = max(1, layers // 12)
    (drawn,) = axes.plot(
        range(layers), mean, color=colour, marker=marker or ("D" if layers == 1 else ""), linestyle=line, linewidth=1.5,
        markersize=4.5, markevery=every, label=label,
    )  # fmt: skip
    return drawn


def _title(system: Mapping[str, Any], some_steered: bool) -> str:
    """Name, number of questions, and, where a system beside it is steered, how this one is."""
    steering, noise = system["steering"], system["noise"]
    name = system["name"] + ("" if noise is None else f", {noise['share']:.0%} {noise['kind']}")
    head = f"{name} (n = {system['questions']})"
    if steering is None:
        return f"{head}\nnot steered" if some_steered else head
    where = "all layers" if steering["layers"] == "all" else "shaded layers"
    return f"{head}\nsteered: {steering['policy'].replace('_', ' ')}, {where}"


def _steered(system: Mapping[str, Any], layers: int) -> list[int]:
    steering = system["steering"]
    if steering is None or steering["layers"] == "all":
        return []
    return [layer for layer in steering["layers"] if layer < layers]
