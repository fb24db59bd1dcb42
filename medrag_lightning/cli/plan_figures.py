"""What a probe has measured of a run, and what follows for the whole of it. Arithmetic alone: nothing is imported or run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Rung:
    """One training batch of the longest samples: how many, how long it took, how much memory the process then had at most."""

    samples: int
    seconds: float
    peak_bytes: int


@dataclass(slots=True)
class Timed:
    """One ordinary training batch: how long it took to make, and to learn from; whether the optimizer stepped."""

    data_seconds: float
    compute_seconds: float
    stepped: bool
    tokens: int = 0


@dataclass(slots=True)
class Evaluated:
    """A loader of an evaluation: all its batches and items, and the mean seconds of those that were run."""

    phase: str
    batches: int
    items: int
    data_seconds: float
    compute_seconds: float


@dataclass(slots=True)
class Probe:
    """What the child process counted and measured. Bytes and seconds throughout; everything is of one process.

    Attributes:
        verb: what was asked for; `stage` and `device` are names.
        queries: questions by split.
        samples: training samples of an epoch, over all processes; `looked_at` of them were searched for the longest.
        train_batches: of an epoch, for each process.
        epochs, max_steps: where training ends; None and -1 for no limit of that kind.
        val_every_epochs, val_interval: as Lightning's ``check_val_every_n_epoch`` and ``val_check_interval``.
        ladder: batches of ever more of the longest samples, the last of `batch_size` unless memory would have run out.
        cold, warm: ordinary batches, seen for the first and for the second time (frozen image features are then kept).
        start_seconds: from the start of the program to its first batch, without what `store_seconds` holds.
        store: ``there``, ``built`` (in a temporary folder), ``computed`` (too large to build here), ``embedded`` (the stage
            itself makes its vectors), or ``none``.
        store_seconds: to embed corpus and questions where that was not done here.
        base_bytes: the process before the stage's weights were there; `peak_train` and `peak_evaluation` its most.
        device_total, device_other: of the GPU; other is what is taken by anyone but torch. 0 on a CPU.
        device_train, device_evaluation: the most that torch had reserved there.
        checkpoints_kept, checkpoint_every: files that stay at the end; optimizer steps between two writes (0: none).
        prediction_bytes: of one question in the prediction files.
    """

    verb: str = "fit"
    stage: str = ""
    device: str = "cpu"
    precision: str = ""
    queries: dict[str, int] = field(default_factory=dict)
    documents: int = 0
    samples: int = 0
    looked_at: int = 0
    parameters: int = 0
    trainable: int = 0
    weight_bytes: int = 0
    gradient_bytes: int = 0
    optimizer_bytes: int = 0
    batch_size: int = 0
    accumulate: int = 1
    processes: int = 1
    workers: int = 0
    train_batches: int = 0
    epochs: int | None = None
    max_steps: int = -1
    val_every_epochs: int | None = 1
    val_interval: float = 1.0
    ladder: list[Rung] = field(default_factory=list)
    cold: list[Timed] = field(default_factory=list)
    warm: list[Timed] = field(default_factory=list)
    evaluations: list[Evaluated] = field(default_factory=list)
    start_seconds: float = 0.0
    store: str = "none"
    store_seconds: float = 0.0
    store_bytes: int = 0
    base_bytes: int = 0
    peak_train: int = 0
    peak_evaluation: int = 0
    device_total: int = 0
    device_other: int = 0
    device_train: int = 0
    device_evaluation: int = 0
    checkpoint_bytes: int = 0
    checkpoint_seconds: float = 0.0
    checkpoints_kept: int = 0
    checkpoint_every: int = 0
    prediction_bytes: float = 0.0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Estimate:
    """The whole run. `is_measured` tells whether memory was seen with a full batch, or computed from smaller ones.

    Attributes:
        batches, steps, validations: of training, for each process; 0 where nothing trains. `batches` is None without an end.
        peak_bytes: main memory of all processes on this machine; `device_bytes` that of each GPU.
        disk_bytes: what stays when the run is done; `disk_peak_bytes` with the copy that is being written.
    """

    batches: int | None
    steps: int | None
    validations: int
    start_seconds: float
    train_seconds: float
    validate_seconds: float
    test_seconds: float
    checkpoint_seconds: float
    peak_bytes: int
    device_bytes: int
    disk_bytes: int
    disk_peak_bytes: int
    is_measured: bool

    @property
    def seconds(self) -> float:
        """The whole run."""
        parts = (self.start_seconds, self.train_seconds, self.validate_seconds, self.test_seconds, self.checkpoint_seconds)
        return sum(parts)


def estimate(probe: Probe) -> Estimate:
    """What the whole run will take."""
    batches = total_batches(probe)
    steps = None if batches is None else total_steps(probe, batches)
    passes = validations(probe, batches)
    seconds_of = {phase: sum(_of_loader(probe, one) for one in of_phase(probe, phase)) for phase in ("val", "test", "predict")}
    writes = 0
    if steps and probe.checkpoints_kept:
        writes = (
            passes * min(2, probe.checkpoints_kept) + 2 + (steps // probe.checkpoint_every if probe.checkpoint_every else 0)
        )
    asked = [one for phase in ("val", "test", "predict") for one in of_phase(probe, phase)]
    kept = probe.checkpoints_kept * probe.checkpoint_bytes + round(sum(one.items for one in asked) * probe.prediction_bytes)
    kept += 0 if probe.store == "there" else probe.store_bytes
    per_machine = 1 if probe.device_total else probe.processes
    peak, device = full_peak(probe), probe.device_train
    if probe.device_total:
        peak, device = probe.peak_train, full_peak(probe)
    return Estimate(
        batches=batches,
        steps=steps,
        validations=passes,
        start_seconds=probe.start_seconds + probe.store_seconds,
        train_seconds=train_seconds(probe, batches or 0),
        validate_seconds=seconds_of["val"] * (passes if probe.train_batches else 1),
        test_seconds=seconds_of["test"] + seconds_of["predict"],
        checkpoint_seconds=writes * probe.checkpoint_seconds,
        peak_bytes=per_machine * max(peak, probe.peak_evaluation),
        device_bytes=max(device, probe.device_evaluation) + probe.device_other if probe.device_total else 0,
        disk_bytes=kept,
        disk_peak_bytes=kept + probe.checkpoint_bytes,
        is_measured=not probe.ladder or probe.ladder[-1].samples >= min(probe.batch_size, probe.samples),
    )


def total_batches(probe: Probe) -> int | None:
    """Training batches of the whole run, for each process; None if there is no end to it."""
    limits = [] if probe.epochs is None or probe.epochs < 0 else [probe.epochs * probe.train_batches]
    if probe.max_steps >= 0 and probe.train_batches:
        epochs, rest = divmod(probe.max_steps, math.ceil(probe.train_batches / probe.accumulate))
        limits.append(epochs * probe.train_batches + rest * probe.accumulate)
    return min(limits) if limits else (None if probe.train_batches else 0)


def total_steps(probe: Probe, batches: int) -> int:
    """Optimizer steps of so many batches: the last batches of an epoch make a step, even where they are few."""
    epochs, rest = divmod(batches, max(1, probe.train_batches))
    return epochs * math.ceil(probe.train_batches / probe.accumulate) + math.ceil(rest / probe.accumulate)


def validations(probe: Probe, batches: int | None) -> int:
    """How often training stops to validate."""
    if not batches or not probe.train_batches or not of_phase(probe, "val"):
        return 0
    if probe.val_every_epochs is None:
        return batches // max(1, int(probe.val_interval))
    whole = isinstance(probe.val_interval, int)
    every = int(probe.val_interval) if whole else max(1, int(probe.val_interval * probe.train_batches))
    epochs, rest = divmod(batches, probe.train_batches)
    inside = rest // every if (epochs + 1) % probe.val_every_epochs == 0 else 0
    return epochs // probe.val_every_epochs * (probe.train_batches // every) + inside


def of_phase(probe: Probe, phase: str) -> list[Evaluated]:
    """The loaders of a phase: ``val``, ``test`` or ``predict``."""
    return [one for one in probe.evaluations if one.phase == phase]


def batch_seconds(probe: Probe, timed: Sequence[Timed]) -> float:
    """An ordinary training batch: with loader workers the slower of making it and learning from it, else both.

    The optimizer's share is that of the run's own ``accumulate_grad_batches``.
    """
    if not timed:
        if not probe.ladder:
            return 0.0
        top = probe.ladder[-1]  # no ordinary batch was run: memory would have run out
        return top.seconds / top.samples * probe.batch_size
    data = sum(one.data_seconds for one in timed) / len(timed)
    stepped = [one.compute_seconds for one in timed if one.stepped]
    held = [one.compute_seconds for one in timed if not one.stepped] or stepped
    stepped = stepped or held
    compute = (sum(held) / len(held) * (probe.accumulate - 1) + sum(stepped) / len(stepped)) / probe.accumulate
    return max(compute, data / probe.workers) if probe.workers else compute + data


def train_seconds(probe: Probe, batches: int) -> float:
    """All training batches: those of the first epoch at the first pace, the others at the second."""
    first = min(batches, probe.train_batches)
    cold = batch_seconds(probe, probe.cold)
    return first * cold + (batches - first) * (batch_seconds(probe, probe.warm) if probe.warm else cold)


def full_peak(probe: Probe) -> int:
    """The most memory of training (a GPU's, if it is on one): measured, or by a straight line through the last two rungs."""
    measured = probe.device_train if probe.device_total else probe.peak_train
    if not probe.ladder or probe.ladder[-1].samples >= min(probe.batch_size, probe.samples):
        return measured
    return max(measured, next_peak(probe.ladder, min(probe.batch_size, probe.samples)))


def next_peak(ladder: Sequence[Rung], samples: int) -> int:
    """The memory that a batch of so many samples would take, by a straight line through the last two rungs."""
    last = ladder[-1]
    before = next((rung for rung in reversed(ladder[:-1]) if rung.samples < last.samples), None)
    if before is None:
        return last.peak_bytes
    slope = (last.peak_bytes - before.peak_bytes) / (last.samples - before.samples)
    return round(last.peak_bytes + max(0.0, slope) * (samples - last.samples))


def fitting_samples(probe: Probe, limit_bytes: int) -> int:
    """The largest batch that stays below `limit_bytes`, by the same straight line; 0 if not even one sample does."""
    ladder = probe.ladder
    if len(ladder) < 2 or ladder[0].peak_bytes > limit_bytes:
        return 0
    low, high = 1, max(1, probe.batch_size)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if next_peak(ladder, middle) <= limit_bytes else (low, middle - 1)
    return low


def _of_loader(probe: Probe, one: Evaluated) -> float:
    each = (
        max(one.compute_seconds, one.data_seconds / probe.workers) if probe.workers else one.compute_seconds + one.data_seconds
    )
    return one.batches * each
