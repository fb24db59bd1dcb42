"""Libraries that draw progress bars over the terminal, kept quiet for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Inside, transformers draws none; afterwards it does again what it did before."""
    drew = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drew:
            logging.enable_progress_bar()
