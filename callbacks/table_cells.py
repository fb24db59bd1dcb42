"""Cells of the printed tables: a number and its interval in as few characters as it takes."""

from __future__ import annotations

from rich.table import Table

from medrag_lightning.metrics import Metric


def new_table(heading: str, columns: list[str] | None = None) -> Table:
    """A table without lines; the first column is named `heading`, the others are right-aligned."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="italic", pad_edge=False)
    table.add_column(heading, no_wrap=True)
    for name in columns or []:
        table.add_column(name, justify="right", no_wrap=True)
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


def percent_cell(metric: Metric, signed: bool = False) -> str:
    """``81 [78, 84]``, in percent, where columns are many."""
    if metric.value != metric.value:
        return "-"
    sign = "+" if signed else ""
    ends = "" if metric.low != metric.low else f" [{100 * metric.low:{sign}.0f}, {100 * metric.high:{sign}.0f}]"
    return f"{100 * metric.value:{sign}.0f}{ends}"


def gap_cell(metric: Metric | None) -> str:
    """``+5 [+1, +10] *``, in percent points; the star where the interval excludes 0."""
    if metric is None:
        return ""
    star = " *" if metric.low > 0 or metric.high < 0 else "  "
    return percent_cell(metric, signed=True) + star


def _short(value: float, signed: bool) -> str:
    text = f"{value:+.2f}" if signed else f"{value:.2f}"
    return text.replace("0.", ".", 1) if abs(value) < 0.995 else text
