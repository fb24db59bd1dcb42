"""Progress that can be read: a live bar on a terminal, one line every so many steps in a log file. Both tell when it ends."""

from __future__ import annotations

import math
import time
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console

NAMES = {"train/samples_per_second": "samples/s", "train/tokens_per_second": "tokens/s", "train/loss": "loss"}
RATES = ("samples/s", "tokens/s")


class Progress(RichProgressBar):
    """Steps, losses, samples a second (from `callbacks.throughput.Throughput`) and the time left for the whole run.

    On a terminal this is Lightning's rich bar, whose own time left is that of the epoch, with `ETA` for the run beside
    it. Elsewhere (a batch job, a pipe) it prints one plain line every `every_n_steps` batches and after each
    validation. The time left is extrapolated from this process's pace since it started, validation included.

    Args:
        every_n_steps: batches between two lines of plain text.
        refresh_per_second: how often the live bar is redrawn.
    """

    def __init__(self, every_n_steps: int = 50, refresh_per_second: int = 10) -> None:
        super().__init__(refresh_rate=refresh_per_second)
        if every_n_steps < 1 or refresh_per_second < 1:
            raise ValueError(
                f"every_n_steps and refresh_per_second must be at least 1, got {every_n_steps} and {refresh_per_second}"
            )
        self.every_n_steps = every_n_steps
        self._console_of_text: Console | None = None
        self._clock = RunClock()
        self._metrics_read = -math.inf

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Chooses between the bar and plain text."""
        super().setup(trainer, pl_module, stage)
        console = Console()
        if not console.is_terminal:
            self._refresh_rate = 0  # switches the live bar off
            self._console_of_text = console if trainer.is_global_zero else None

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """What the bar shows, under short names."""
        metrics = {NAMES.get(k, k): v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}
        if self.is_enabled:
            metrics.pop("tokens/s", None)  # the bar is wide enough without
        shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in metrics.items()}
        return {**shown, "ETA": self._clock.eta()}

    def _update_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As the parent, no more often than the bar is redrawn: reading a loss waits for the GPU."""
        now = time.monotonic()
        if self.is_enabled and now - self._metrics_read >= 1 / self.refresh_rate:
            self._metrics_read = now
            super()._update_metrics(trainer, pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        super().on_train_start(trainer, pl_module)
        self._clock.start(time.monotonic(), _batches_done(trainer), total_batches(trainer))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar, or prints a line."""
        done = _batches_done(trainer)
        self._clock.tick(time.monotonic(), done)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if done % self.every_n_steps == 0 or done == self._clock.total:
            head = f"train {_of(done, self._clock.total)}, epoch {trainer.current_epoch + 1}"
            self._say(head, self._texts(trainer, pl_module))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Shows the validation metrics."""
        super().on_validation_end(trainer, pl_module)
        if not trainer.sanity_checking:
            found = {k: v for k, v in trainer.callback_metrics.items() if k.startswith("val")}
            self._say(f"validation after step {trainer.global_step}", [f"{k} {float(v):.4g}" for k, v in found.items()])

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        super().on_test_start(trainer, pl_module)
        self._start_evaluation(sum(trainer.num_test_batches))

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        super().on_predict_start(trainer, pl_module)
        self._start_evaluation(sum(trainer.num_predict_batches))

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Moves the bar, or prints a line."""
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        self._count_evaluation("test")

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Moves the bar, or prints a line."""
        super().on_predict_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        self._count_evaluation("predict")

    def _start_evaluation(self, total: float) -> None:
        self._clock.start(time.monotonic(), 0, int(total) if math.isfinite(total) else None)

    def _count_evaluation(self, what: str) -> None:
        done = self._clock.done + 1
        self._clock.tick(time.monotonic(), done)
        if done % self.every_n_steps == 0 or done == self._clock.total:
            self._say(f"{what} {_of(done, self._clock.total)}", [f"ETA {self._clock.eta()}"])

    def _texts(self, trainer: L.Trainer, pl_module: L.LightningModule) -> list[str]:
        shown = self.get_metrics(trainer, pl_module)
        shown = {name: value for name, value in shown.items() if not name.startswith("val")}
        return [f"{value} {name}" if name in RATES else f"{name} {value}" for name, value in shown.items()]

    def _say(self, head: str, texts: list[str]) -> None:
        if self._console_of_text is not None and self._enabled:
            line = "  ".join([head, *texts])
            self._console_of_text.print(line, soft_wrap=True, highlight=False, markup=False)


class RunClock:
    """How long the rest takes, at the mean pace since `start`."""

    def __init__(self) -> None:
        self.start(0.0, 0, None)

    def start(self, now: float, done: int, total: int | None) -> None:
        """Begins at `now` with `done` of `total` batches; `total` None for an endless run."""
        self.total, self.done = total, done
        self._began, self._first, self._now = now, done, now

    def tick(self, now: float, done: int) -> None:
        """Notes that `done` batches are done at `now`."""
        self.done, self._now = done, now

    def eta(self) -> str:
        """Time left as h:mm:ss, or ``-:--:--`` while unknown."""
        if self.total is None or self.done <= self._first:
            return "-:--:--"
        seconds = (self._now - self._began) / (self.done - self._first) * max(0, self.total - self.done)
        return str(timedelta(seconds=round(seconds)))


def total_batches(trainer: L.Trainer) -> int | None:
    """Training batches of the whole run; None if there is no end to it."""
    limits: list[float] = []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        limits.append(trainer.max_epochs * float(trainer.num_training_batches))
    if trainer.max_steps >= 0:
        limits.append(trainer.max_steps * trainer.accumulate_grad_batches)
    finite = [limit for limit in limits if math.isfinite(limit)]
    return int(min(finite)) if finite else None


def _batches_done(trainer: L.Trainer) -> int:
    return trainer.fit_loop.epoch_loop.total_batch_idx + 1


def _of(done: int, total: int | None) -> str:
    return f"{done}" if total is None else f"{done}/{total}"
