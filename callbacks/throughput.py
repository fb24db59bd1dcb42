"""Samples and tokens a second, over a sliding window of training steps."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import lightning as L


class SlidingRate:
    """Amounts a second over the last `window` ticks; time spent between `pause` and `resume` does not count."""

    def __init__(self, window: int) -> None:
        self._ticks: deque[tuple[float, float]] = deque(maxlen=window + 1)
        self._total = 0.0
        self._paused_seconds = 0.0
        self._pause_began: float | None = None

    def start(self, now: float) -> None:
        """Forgets everything before `now`."""
        self._ticks.clear()
        self._total, self._paused_seconds, self._pause_began = 0.0, 0.0, None
        self._ticks.append((now, 0.0))

    def pause(self, now: float) -> None:
        """Stops the clock."""
        self._pause_began = now

    def resume(self, now: float) -> None:
        """Lets the clock go on."""
        if self._pause_began is not None:
            self._paused_seconds += now - self._pause_began
        self._pause_began = None

    def tick(self, now: float, amount: float) -> None:
        """Adds `amount`, done at `now`."""
        self._total += amount
        self._ticks.append((now - self._paused_seconds, self._total))

    @property
    def per_second(self) -> float | None:
        """The rate; None before the first tick."""
        (first, before), (last, after) = self._ticks[0], self._ticks[-1]
        return (after - before) / (last - first) if last > first else None


class Throughput(L.Callback):
    """Logs ``train/samples_per_second`` and ``train/tokens_per_second`` over all processes; shown by the progress bar.

    Samples are ``len(batch)``; tokens are ``batch.token_count`` where the batch has one (real tokens, no padding).
    Waiting for data counts, validation does not. Only reads a clock: a resumed run stays bit-equal.

    Args:
        window: training batches that the rate is taken over.
    """

    def __init__(self, window: int = 50) -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1 batch, got {window}")
        self._samples, self._tokens = SlidingRate(window), SlidingRate(window)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clocks."""
        now = time.perf_counter()
        for rate in (self._samples, self._tokens):
            rate.start(now)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops the clocks."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            now = time.perf_counter()
            for rate in (self._samples, self._tokens):
                rate.pause(now)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lets the clocks go on."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            now = time.perf_counter()
            for rate in (self._samples, self._tokens):
                rate.resume(now)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the batch and logs the rates."""
        now = time.perf_counter()
        self._samples.tick(now, len(batch) * trainer.world_size)
        tokens = getattr(batch, "token_count", 0)
        self._tokens.tick(now, tokens * trainer.world_size)
        rates = {"train/samples_per_second": self._samples.per_second}
        if tokens:
            rates["train/tokens_per_second"] = self._tokens.per_second
        for name, value in rates.items():
            if value is not None:
                pl_module.log(name, value, prog_bar=True, on_step=True, on_epoch=False, rank_zero_only=True)
