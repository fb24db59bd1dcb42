"""A table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def show_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints rows under the names of their columns, the first to the left, the others to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=128).print(table)


def metric_row(name: str, told: Mapping[str, Any]) -> list[str]:
    """Name, value, interval and note of a `metrics.bootstrap.Metric` as JSON; a value that is not known is a dash."""
    shown = ["-" if told[key] is None else f"{told[key]:.3f}" for key in ("value", "low", "high")]
    return [name, shown[0], f"{shown[1]} to {shown[2]}", told["reason"]]
