"""The last thing that `run` prints: what became of each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Line:
    """A step in the table; `seconds` is None where it did not run."""

    step: str
    verb: str
    state: str
    seconds: float | None


def print_table(recipe: str, folder: Path, lines: Sequence[Line]) -> None:
    """Step, verb, state and time, and the sum of the times."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{recipe} in {folder}", title_justify="left", show_footer=True)
    table.add_column("step", footer="all")
    table.add_column("verb")
    table.add_column("state")
    table.add_column("time", footer=clock(sum(line.seconds or 0.0 for line in lines)), justify="right")
    for line in lines:
        table.add_row(line.step, line.verb, line.state, "" if line.seconds is None else clock(line.seconds))
    Console().print(table)


def clock(seconds: float) -> str:
    """Seconds as 8 s, 2 min 05 s or 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
