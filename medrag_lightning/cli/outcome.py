"""How a verb ends: a user's mistake is told in a few lines, an interruption says how to go on."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

USER_ERROR, PREEMPTED, INTERRUPTED = 2, 75, 130
OURS = ("medrag_lightning", "callbacks")


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
        if os.environ.get("MEDRAG_DEBUG") == "1" or not is_users(error):
            raise
        tell(f"error: {error}", sys.stderr)
        raise SystemExit(USER_ERROR) from None


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
