"""How a verb ends: a user's mistake is told in a few lines, an interruption says how to go on."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from medrag_lightning.disk import REMEDIES, DiskError, disk_fault

USER_ERROR, PREEMPTED, INTERRUPTED = 2, 75, 130
OURS = ("medrag_lightning", "callbacks")
LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "process has terminated",
    "ncclRemoteError",
)
"""How torch.distributed tells that another process is gone."""
GO_ON = "If checkpoints/last.ckpt is there, the run goes on with: --ckpt_path last"


@contextmanager
def user_errors(verb: str) -> Iterator[None]:
    """Turns ValueErrors and OSErrors raised by this project's own code into a message and exit code 2.

    Other exceptions are faults of the program and keep their traceback; so does everything with ``MEDRAG_DEBUG=1``.
    """
    try:
        yield
    except KeyboardInterrupt:
        tell(f"\n{verb}: interrupted before there was anything to save", sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        message = None if os.environ.get("MEDRAG_DEBUG") == "1" else user_message(error)
        if message is None:
            raise
        tell(f"error: {message}", sys.stderr)
        raise SystemExit(USER_ERROR) from None


def user_message(error: Exception) -> str | None:
    """What to tell of an exception instead of a traceback; None for a fault of the program."""
    if is_users(error):
        return str(error)
    refusal = disk_fault(error, "a file")
    if refusal is not None:  # wherever it was met: a full disk is never a fault of the program
        return str(refusal)
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in LOST_PEER):
        told = str(error).splitlines()[0]
        return f"another process of this run has ended ({told}); its own message, above or in its log, says why. {GO_ON}"
    return _of_worker(str(error))


def _of_worker(text: str) -> str | None:
    """The mistake that a loader process has met, which torch tells with that process's traceback before it."""
    if not text.startswith("Caught ") or "in DataLoader worker process" not in text:
        return None
    refused = re.findall(r"\[Errno (\d+)\] [^\n]*?(?:: '([^'\n]*)')?$", text, re.MULTILINE)
    if refused and int(refused[-1][0]) in REMEDIES:
        return str(DiskError(int(refused[-1][0]), refused[-1][1] or "a file"))
    frames = re.findall(r'^  File "([^"]*)", line', text, re.MULTILINE)
    told = re.search(r"^(?:ValueError|[\w.]*DiskError): (.*)\Z", text, re.MULTILINE | re.DOTALL)
    ours = bool(frames) and re.search(r"[/\\](?:medrag_lightning|callbacks)[/\\][\w/\\]+\.py$", frames[-1])
    return told[1].strip() if told and ours else None


def is_users(error: Exception) -> bool:
    """Whether an exception tells of a user's mistake: raised by our code on purpose, or by Lightning about its settings."""
    if type(error).__name__ == "MisconfigurationException":
        return True
    if not isinstance(error, ValueError | OSError):
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    module = str(frames[-1][0].f_globals.get("__name__", "")) if frames else ""
    return module.split(".")[0] in OURS


def tell(text: str, stream: TextIO) -> None:
    """Writes a line to a terminal."""
    stream.write(text + "\n")
    stream.flush()
