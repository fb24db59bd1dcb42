"""How far a long look is, and when it ends: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

QUIET_SECONDS = 2.0  # what is over sooner needs no line
LINE_EVERY_SECONDS = 10.0


@contextmanager
def telling(what: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function to call with (done, total); tells of it on standard error, in the end with pace and time taken.

    Args:
        what: is counted, such as ``images``.
    """
    if sys.stderr.isatty():
        with _bar(what) as tell:
            yield tell
    else:
        yield _Lines(what)


class _Lines:
    """A plain line every ten seconds."""

    def __init__(self, what: str) -> None:
        self.what, self.began = what, time.monotonic()
        self.told = self.began + QUIET_SECONDS - LINE_EVERY_SECONDS
        self.first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = max(done - 1, 0)  # what a cache knew took no time
        took = now - self.began
        if now - self.told >= LINE_EVERY_SECONDS or (done == total and took > QUIET_SECONDS):
            self.told = now
            left = timedelta(seconds=round(took / max(done - self.first, 1) * (total - done)))
            rate = (done - self.first) / max(took, 1e-9)
            pace = f"{rate:.{0 if rate >= 10 else 2}f} {self.what}/s"
            sys.stderr.write(f"{self.what}: {done}/{total}  {pace}  ETA {left}\n")
            sys.stderr.flush()


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=None)

    def tell(done: int, total: int) -> None:
        if not bar.live.is_started:  # not before: its thread must not be there when processes are forked
            bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield tell
    finally:
        bar.stop()
