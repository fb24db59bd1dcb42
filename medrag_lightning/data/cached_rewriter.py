"""Keeps what a rewriter wrote, and goes on without it where it fails or takes too long."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medrag_lightning.artifacts import fingerprint, read_manifest, write_manifest
from medrag_lightning.interfaces import LoadingRewriter, Rewriter, RewriteTask

logger = logging.getLogger(__name__)

SCHEMA = 1
MOST_CHARS = 2000  # of a rewritten question; a longer one is no question
KEPT_EVERY = 256  # questions between two writes: an interruption loses no more
TOLD_EVERY_SECONDS = 30.0
NOTE = "rewritten questions by the fingerprint of question and history: they hold words of both; no patient or study ids"


@dataclass(slots=True)
class RewriteCounts:
    """What became of questions with a history; each question counts once a call.

    Attributes:
        known: written before, from the cache.
        written: written now.
        unchanged: of both, those that stand alone as they are.
        failed: searched with as they are, because there was no rewriting, by reason.
    """

    known: int = 0
    written: int = 0
    unchanged: int = 0
    failed: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        failed = ", ".join(f"{count} {reason}" for reason, count in sorted(self.failed.items()))
        told = f"{self.written} rewritten now, {self.known} before ({self.unchanged} of them stand alone as they are)"
        return f"{told}; {sum(self.failed.values())} failed" + (f": {failed}" if failed else "")


class CachedRewriter:
    """A rewriter behind a cache on disk, with a limit of time; `interfaces.Rewriter`.

    Nothing that the wrapped rewriter does stops a run. A batch that raises, gives the wrong number of texts or takes longer
    than `timeout_seconds` has failed: its questions are searched with as they are, one warning says why, `counts` how many.
    Such a batch waits in a thread that is left behind; while it hangs, and after `most_failures` failed batches in a row,
    nothing more is asked in the same call. Failures are not kept: the next run asks again.

    The cache holds rewritten questions, which have words of question and history; it names them by a fingerprint of both, and
    holds neither patient nor study ids (unless somebody wrote one into a question). Keep it where the questions lie.

    Args:
        rewriter: what writes.
        folder: where the cache lies; null keeps nothing on disk.
        timeout_seconds: longest time for a batch; loading a model does not count.
        batch_size: questions that the rewriter is given at once.
        most_failures: failed batches in a row after which no more are tried in a call.
    """

    def __init__(
        self,
        rewriter: Rewriter,
        folder: str | None = "runs/rewritten",
        timeout_seconds: float = 120.0,
        batch_size: int = 16,
        most_failures: int = 3,
    ) -> None:
        if timeout_seconds <= 0 or batch_size < 1 or most_failures < 1:
            told = f"got {timeout_seconds}, {batch_size} and {most_failures}"
            least = "timeout_seconds above 0, batch_size and most_failures of at least 1"
            raise ValueError(f"CachedRewriter needs {least}, {told}")
        self.rewriter, self.folder = rewriter, None if folder is None else Path(folder)
        self.timeout_seconds, self.batch_size, self.most_failures = timeout_seconds, batch_size, most_failures
        self.counts = RewriteCounts()
        self._known: dict[str, str] | None = None
        self._hanging: threading.Thread | None = None
        self._warned = False

    def rewrite(self, tasks: Sequence[RewriteTask]) -> list[str | None]:
        """The rewritten questions; None for one that failed. `counts` tells of this call."""
        known = self._read()
        self.counts = RewriteCounts()
        keys = [_key(task) for task in tasks]
        missing = {key: task for key, task in zip(keys, tasks, strict=True) if key not in known}
        reasons = self._ask(missing) if missing else {}
        for key, task in zip(keys, tasks, strict=True):
            self._count(task, known.get(key), key in missing, reasons.get(key, "for no known reason"))
        if self.counts.failed and not self._warned:
            self._warned = True
            logger.warning("%d of %d questions with a history are searched with as they are: %s",
                           sum(self.counts.failed.values()), len(tasks), self.counts)  # fmt: skip
        return [known.get(key) for key in keys]

    def known(self, tasks: Sequence[RewriteTask]) -> list[str | None]:
        """What the cache on disk has; None for the rest, which another process could not get. Without a folder: asks."""
        if self.folder is None:
            return self.rewrite(tasks)
        self._known = None
        known = self._read()
        return [known.get(_key(task)) for task in tasks]

    def forget(self) -> None:
        """Drops from memory what was written; the cache on disk stays."""
        self._known = None

    def fingerprint(self) -> str:
        """That of the rewriter."""
        return self.rewriter.fingerprint()

    def _count(self, task: RewriteTask, text: str | None, asked: bool, reason: str) -> None:
        counts = self.counts
        if text is None:
            counts.failed[reason] = counts.failed.get(reason, 0) + 1
            return
        counts.written, counts.known = counts.written + asked, counts.known + (not asked)
        counts.unchanged += text == task.question

    def _ask(self, missing: dict[str, RewriteTask]) -> dict[str, str]:
        """Asks batch by batch, and keeps what comes; the reasons of those that failed, by key."""
        if isinstance(self.rewriter, LoadingRewriter):
            self.rewriter.load()
        known, keys, reasons = self._read(), list(missing), dict[str, str]()
        began, told, fresh, failures = time.monotonic(), time.monotonic(), dict[str, str](), 0
        for start in range(0, len(keys), self.batch_size):
            part = keys[start : start + self.batch_size]
            made = self._batch([missing[key] for key in part], failures)
            failures = failures + 1 if isinstance(made, str) else 0
            texts: list[str | None] = [None] * len(part) if isinstance(made, str) else made
            for key, text in zip(part, texts, strict=True):
                if text is None:
                    reasons[key] = made if isinstance(made, str) else "without a usable text"
                else:
                    fresh[key] = known[key] = text
            last = start + len(part) == len(keys)
            if len(fresh) >= KEPT_EVERY or (last and fresh):
                self._keep(fresh)
                fresh = {}
            if not last and time.monotonic() - told > TOLD_EVERY_SECONDS:
                told, done = time.monotonic(), start + len(part)
                left = (told - began) / done * (len(keys) - done)
                logger.info("questions rewritten: %d of %d, about %.0f s left", done, len(keys), left)
        return reasons

    def _batch(self, tasks: Sequence[RewriteTask], failures: int) -> list[str | None] | str:
        """What the rewriter makes of a batch, or why it made nothing."""
        if self._hanging is not None and self._hanging.is_alive():
            return "not asked, after one that hangs"
        if failures >= self.most_failures:
            return f"not asked, after {self.most_failures} failures in a row"
        came: queue.SimpleQueue[list[str | None] | Exception] = queue.SimpleQueue()
        thread = threading.Thread(target=self._work, args=(tasks, came), daemon=True, name="rewriter")
        thread.start()
        try:
            made = came.get(timeout=self.timeout_seconds)
        except queue.Empty:
            self._hanging = thread
            return f"within {self.timeout_seconds:g} s"
        if isinstance(made, Exception):
            return f"by {type(made).__name__} ({str(made).splitlines()[0][:200] if str(made) else 'without words'})"
        if len(made) != len(tasks):
            return f"by {len(made)} texts for {len(tasks)} questions"
        return [_usable(text) for text in made]

    def _work(self, tasks: Sequence[RewriteTask], came: queue.SimpleQueue[list[str | None] | Exception]) -> None:
        try:
            came.put(self.rewriter.rewrite(tasks))
        except Exception as error:  # noqa: BLE001  (whatever it is, the run goes on, and its warning tells it)
            came.put(error)

    def _read(self) -> dict[str, str]:
        if self._known is None:
            self._known = {}
            place = self._place()
            for path in sorted(place.glob("*.json")) if place is not None else ():
                told = read_manifest(path, f"delete {path}: its questions are rewritten again")
                if told.get("schema") != SCHEMA or told.get("rewriter") != self.fingerprint():
                    raise ValueError(f"{path} is of another rewriter or version; delete it: its questions are rewritten again")
                self._known |= told["rewritten"]
        return self._known

    def _keep(self, fresh: dict[str, str]) -> None:
        place = self._place()
        if place is not None:
            told = {"schema": SCHEMA, "rewriter": self.fingerprint(), "rewritten": fresh, "note": NOTE}
            write_manifest(place / f"{fingerprint(sorted(fresh))[:32]}.json", told)

    def _place(self) -> Path | None:
        return None if self.folder is None else self.folder / self.fingerprint()[:16]


def cached(rewriter: Rewriter) -> CachedRewriter:
    """The rewriter behind a cache with the usual settings, unless it is behind one."""
    return rewriter if isinstance(rewriter, CachedRewriter) else CachedRewriter(rewriter)


def _key(task: RewriteTask) -> str:
    return fingerprint("rewrite", task.question, [list(turn) for turn in task.history])


def _usable(text: str | None) -> str | None:
    """`text` on one line; None where it is blank or too long."""
    line = None if text is None else " ".join(text.split())
    return line if line and len(line) <= MOST_CHARS else None
