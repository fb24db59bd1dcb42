"""The clock and the memory gauge of a probe: a callback in the child process."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch

from medrag_lightning.cli.hardware import memory
from medrag_lightning.cli.plan_batches import EvaluationProbe, TrainingProbe
from medrag_lightning.cli.plan_figures import Evaluated, Probe, Rung, Timed, next_peak

Phase = Literal["val", "test", "predict"]
SHARE = 0.9  # of the memory that is free now; a batch that would need more is not tried


class OutOfRoomError(Exception):
    """The next larger batch would not fit in memory; what has been measured is in the probe."""


class Measure(L.Callback):
    """Fills a `Probe` while a few batches run.

    Args:
        probe: to be filled.
        started: when the process was started, as `time.time` has it.
        say: tells the user what is going on.
    """

    def __init__(self, probe: Probe, started: float, say: Callable[[str], None]) -> None:
        self.probe, self.started, self.say = probe, started, say
        self.training: TrainingProbe | None = None
        self.loaders: dict[Phase, list[EvaluationProbe]] = {}
        self._last = 0.0
        self._seconds: dict[tuple[Phase, int], list[float]] = {}
        self._cuda: torch.device | None = None
        self._limit = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Finds the device."""
        self._begin(trainer, pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Everything is there, and the first batch comes next."""
        assert self.training is not None
        probe = self.probe
        probe.start_seconds = time.time() - self.started
        probe.batch_size, probe.samples = self.training.batch_size, len(self.training.items)
        probe.train_batches = max(1, -(-probe.samples // (probe.batch_size * probe.processes)))
        probe.workers = int(getattr(trainer.datamodule, "num_workers", 0))  # type: ignore[attr-defined]
        self.say("the longest samples, in ever larger batches")
        self._forget_peak()
        self._last = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes one batch; stops where the next would not fit."""
        assert self.training is not None
        self._wait()
        now, served = time.perf_counter(), self.training.served[-1]
        seconds, self._last = now - self._last, now
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if served.kind == "longest":
            self._climb(trainer, served.samples, seconds)
        else:
            if served.kind == "cold" and not self.probe.cold:
                self.say("ordinary batches")
            timed = Timed(served.data_seconds, max(0.0, seconds - served.data_seconds), stepped, served.tokens)
            (self.probe.cold if served.kind == "cold" else self.probe.warm).append(timed)
        self._last = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Counts the optimizer's states."""
        self._count_optimizer(trainer)

    def _count_optimizer(self, trainer: L.Trainer) -> None:
        probe = self.probe
        tensors = {
            id(value): value.numel() * value.element_size()
            for optimizer in trainer.optimizers
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor)
        }
        probe.optimizer_bytes = sum(tensors.values())
        assert self.training is not None
        probe.looked_at = self.training.looked_at

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on it is the evaluation's memory."""
        self._begin_evaluation(trainer, pl_module, "validation")

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As for validation."""
        self._begin_evaluation(trainer, pl_module, "test")

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As for validation."""
        self._begin_evaluation(trainer, pl_module, "prediction")

    def on_validation_batch_start(self, *arguments: Any, **more: Any) -> None:
        """Starts the clock."""
        self._last = time.perf_counter()

    def on_validation_batch_end(self, *arguments: Any, dataloader_idx: int = 0) -> None:
        """Stops it."""
        self._evaluated("val", dataloader_idx if len(arguments) < 6 else arguments[5])

    def on_test_batch_start(self, *arguments: Any, **more: Any) -> None:
        """Starts the clock."""
        self._last = time.perf_counter()

    def on_test_batch_end(self, *arguments: Any, dataloader_idx: int = 0) -> None:
        """Stops it."""
        self._evaluated("test", dataloader_idx if len(arguments) < 6 else arguments[5])

    def on_predict_batch_start(self, *arguments: Any, **more: Any) -> None:
        """Starts the clock."""
        self._last = time.perf_counter()

    def on_predict_batch_end(self, *arguments: Any, dataloader_idx: int = 0) -> None:
        """Stops it."""
        self._evaluated("predict", dataloader_idx if len(arguments) < 6 else arguments[5])

    def finish(self, loaders: Mapping[Phase, list[EvaluationProbe]]) -> None:
        """Reads the last peak, and what the evaluations took."""
        self._read_peak()
        for phase, probes in loaders.items():
            for number, one in enumerate(probes):
                taken = self._seconds.get((phase, number), [])[one.first :]
                made = [served.data_seconds for served in one.served[one.first :]]
                if taken and one.batches:
                    mean = sum(taken) / len(taken)
                    self.probe.evaluations.append(Evaluated(phase, one.batches, one.items, sum(made) / len(made), mean))

    def _climb(self, trainer: L.Trainer, samples: int, seconds: float) -> None:
        assert self.training is not None
        self.probe.ladder.append(Rung(samples, seconds, self._read_peak()))
        self._forget_peak()
        place = len(self.probe.ladder)
        following = self.training.rungs[place] if place < len(self.training.rungs) else 0
        if following > samples and next_peak(self.probe.ladder, following) > self._limit:
            self._count_optimizer(trainer)
            raise OutOfRoomError

    def _begin(self, trainer: L.Trainer, stage: L.LightningModule) -> None:
        """Counts the weights, and says how much memory there is to use."""
        probe, device = self.probe, trainer.strategy.root_device
        self._cuda = device if device.type == "cuda" else None
        parameters = {id(one): one for one in stage.parameters()}.values()
        held = {id(one): one for one in [*parameters, *stage.buffers()]}.values()
        probe.parameters = sum(one.numel() for one in parameters)
        probe.trainable = sum(one.numel() for one in parameters if one.requires_grad)
        probe.weight_bytes = sum(one.numel() * one.element_size() for one in held)
        probe.gradient_bytes = sum(one.numel() * one.element_size() for one in parameters if one.requires_grad)
        if self._cuda is not None:
            free, total = torch.cuda.mem_get_info(self._cuda)
            probe.device_total = int(total)
            probe.device_other = int(total - free - torch.cuda.memory_reserved(self._cuda))
            self._limit = int(SHARE * (free + torch.cuda.memory_reserved(self._cuda)))
        else:
            found = memory()
            self._limit = sys.maxsize if found is None else memory_now() + int(SHARE * found.available)

    def _begin_evaluation(self, trainer: L.Trainer, stage: L.LightningModule, name: str) -> None:
        if not self.probe.parameters:
            self._begin(trainer, stage)
        if not self.probe.start_seconds:
            self.probe.start_seconds = time.time() - self.started
            self.probe.workers = int(getattr(trainer.datamodule, "num_workers", 0))  # type: ignore[attr-defined]
        self.say(f"some batches of the {name}")
        self._read_peak()
        self._forget_peak()
        self._evaluates = True

    _evaluates = False

    def _evaluated(self, phase: Phase, loader: int) -> None:
        self._wait()
        self._seconds.setdefault((phase, loader), []).append(time.perf_counter() - self._last)

    def _wait(self) -> None:
        if self._cuda is not None:
            torch.cuda.synchronize(self._cuda)

    def _forget_peak(self) -> None:
        if self._cuda is not None:
            torch.cuda.reset_peak_memory_stats(self._cuda)
        else:
            forget_peak()

    def _read_peak(self) -> int:
        """The most since it was last forgotten, put into the probe: main memory, and the GPU's where there is one."""
        probe, main = self.probe, peak_bytes()
        device = int(torch.cuda.max_memory_reserved(self._cuda)) if self._cuda is not None else 0
        if self._evaluates:
            probe.peak_evaluation = max(probe.peak_evaluation, main)
            probe.device_evaluation = max(probe.device_evaluation, device)
        else:
            probe.peak_train, probe.device_train = max(probe.peak_train, main), max(probe.device_train, device)
        return device or main


def memory_now() -> int:
    """What this process has in main memory."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_bytes()


def peak_bytes() -> int:
    """The most main memory that this process has had, since `forget_peak` where the system can forget."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def forget_peak() -> None:
    """From here on the peak is measured anew; where the system cannot, it stays the whole process's."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return
