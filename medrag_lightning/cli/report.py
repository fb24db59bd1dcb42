"""The verb `report`: what a run learned and how it answers, as one HTML file."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from medrag_lightning.cli.outcome import tell

USAGE = "usage: report FOLDER [--output FILE] [--queries N] [--compare FOLDER ...] [--show_ids] [--remove_each]; report --help"
LINE_SECONDS = 10.0  # between two lines, where the output is no terminal


def run_report(arguments: Sequence[str]) -> None:
    """Writes the report that the arguments name; says where it is, what is absent, and what should be known."""
    parsed = _parsed(arguments)
    from medrag_lightning.handoff.report import Options, write_report

    options = Options(
        output=parsed.output,
        queries=parsed.queries,
        compare=tuple(parsed.compare),
        show_ids=parsed.show_ids,
        remove_each=parsed.remove_each,
        ckpt_path=parsed.ckpt_path,
        max_risk=parsed.max_risk,
    )
    started = time.perf_counter()
    with _progress() as progress:
        told = write_report(parsed.folder, options, progress)
    for warning in told.warnings:
        tell(f"warning: {warning}", sys.stderr)
    for title, reason in told.absent:
        tell(f"not there: {title}: {reason}", sys.stdout)
    tell(f"{told.path} ({told.megabytes:.1f} MB, {time.perf_counter() - started:.0f} s)", sys.stdout)


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="medrag_lightning report", add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--compare", type=Path, nargs="+", default=[])
    parser.add_argument("--show_ids", action="store_true")
    parser.add_argument("--remove_each", action="store_true")
    parser.add_argument("--ckpt_path")
    parser.add_argument("--max_risk", type=float)
    words = list(arguments)
    try:
        if not words or words[0].startswith("-"):
            raise ValueError("report: name the folder of a run or recipe first")
        parsed, rest = parser.parse_known_args(words)
    except (argparse.ArgumentError, SystemExit, ValueError) as error:
        raise ValueError(f"{error}\n{USAGE}") from error
    if rest:
        raise ValueError(f"report: not understood: {' '.join(rest)}\n{USAGE}")
    return parsed


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Tells how far long work is: a bar with the time left on a terminal, else a line now and then."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            tasks: dict[str, object] = {}

            def on_terminal(what: str, done: int, of: int) -> None:
                if what not in tasks:
                    tasks[what] = bar.add_task(what, total=of)
                bar.update(tasks[what], completed=done)  # type: ignore[arg-type]

            yield on_terminal
    else:
        yield _lines()


def _lines() -> Callable[[str, int, int], None]:
    began: dict[str, float] = {}
    told_at = time.monotonic()

    def in_lines(what: str, done: int, of: int) -> None:
        nonlocal told_at
        now = time.monotonic()
        start = began.setdefault(what, now)
        if done == 1:
            told_at = now
        if now - told_at >= LINE_SECONDS and done < of:
            told_at = now
            tell(f"{what}: {done} of {of}, about {(now - start) / done * (of - done):.0f} s left", sys.stderr)

    return in_lines
