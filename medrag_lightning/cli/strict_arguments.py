"""The arguments of a verb without a trainer: all of them understood, or a ValueError in one line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any


def parse_strictly(verb: str, parser: argparse.ArgumentParser, arguments: Sequence[str], usage: str) -> Any:
    """What `parser`, made with ``exit_on_error=False``, reads. ValueError says what is wrong or not understood, and `usage`."""
    try:
        told, rest = parser.parse_known_args(arguments)
    except (argparse.ArgumentError, SystemExit) as error:
        raise ValueError(f"{verb}: {error}; {usage}") from error
    if rest:
        raise ValueError(f"{verb}: not understood: {' '.join(rest)}; {usage}")
    return told
