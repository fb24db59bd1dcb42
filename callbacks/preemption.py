"""A polite end: SIGTERM and Ctrl-C stop training after the current optimizer step, with a checkpoint to go on from."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from callbacks.last_checkpoint import can_resume_after, last_path

EXIT_CODES = {signal.SIGTERM: getattr(os, "EX_TEMPFAIL", 75), signal.SIGINT: 130}


class Stopped(SystemExit):
    """Training was asked to stop. Rank 0 exits with `code`; other ranks with 0, or the launcher would kill rank 0."""


class Preemption(L.Callback):
    """Stops at the next optimizer step after SIGTERM (exit code 75) or Ctrl-C (130), and saves ``last.ckpt``.

    A second Ctrl-C stops at once, without saving. The signal may reach any process: all agree on the step by one
    all-reduce of a single number per optimizer step, so that nobody waits for a process that has left. A signal during
    validation or in the last step before it takes effect after the next step, or at the end of training.

    Lightning's own handling broadcasts from inside the signal handler, which can meet another collective half-way,
    saves nothing, and exits with 0 as if training had finished.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._saved = ""
        self._previous: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes over the handlers that Lightning has just set."""
        self._received, self._saved = None, ""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in EXIT_CODES}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves, if asked to stop, where an optimizer step has just ended."""
        if can_resume_after(trainer, batch_idx) and self._all_agree(trainer):
            path = last_path(trainer)
            trainer.save_checkpoint(path)
            self._saved = f"saved {path} at step {trainer.global_step}"

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Stops once the loggers, too, have the step that was saved."""
        if self._saved:
            self._stop(trainer, self._saved)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops after training that ended before the signal could take effect; it has saved itself."""
        self._restore()
        if self._all_agree(trainer):
            self._stop(trainer, "training had just ended")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Gives the handlers back."""
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self._received is not None
        self._received = signal.Signals(number)
        if again and number == signal.SIGINT:
            raise Stopped(EXIT_CODES[signal.SIGINT])

    def _all_agree(self, trainer: L.Trainer) -> bool:
        mine = self._received is not None
        if trainer.world_size == 1:
            return mine
        return trainer.strategy.reduce_boolean_decision(mine, all=False)

    def _stop(self, trainer: L.Trainer, message: str) -> None:
        name = self._received.name if self._received else "a signal to another process"
        rank_zero_info(f"Stopping after {name}: {message}")
        code = EXIT_CODES[self._received or signal.SIGTERM]
        raise Stopped(code if trainer.is_global_zero else 0)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
