"""What a plan says: rows of a table that tell what was measured and what computed, and whether the run fits this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from medrag_lightning.cli.hardware import size_text
from medrag_lightning.cli.plan_figures import Estimate, Probe, batch_seconds, fitting_samples, of_phase
from medrag_lightning.data.audit.findings import Finding

TIGHT = 0.85  # of what is free
LOADING_SHARE = 0.4
WORTH_SECONDS = 60.0  # of training; what is shorter needs no advice
LESS_MEMORY = (
    "--data.init_args.batch_size {batch} with --trainer.accumulate_grad_batches {accumulate}",
    "--model.init_args.reader.init_args.gradient_checkpointing true",
    "an adapter in place of full training (--model.init_args.reader.init_args.adapter.rank 16)",
    "quantization nf4 of the backbone (with an adapter)",
)


@dataclass(frozen=True, slots=True)
class Room:
    """What is free on this machine, in bytes; None where it is not known."""

    memory: int | None
    disk: int


def plan_rows(probe: Probe, told: Estimate) -> list[tuple[str, str]]:
    """The plan as a table of two columns."""
    asked = ", ".join(f"{split} {count:,}" for split, count in probe.queries.items())
    devices = f"{probe.processes} processes" if probe.processes > 1 else "1 process"
    rows = [
        ("run", f"{probe.verb} of stage {probe.stage} on {probe.device}, {devices}, precision {probe.precision}"),
        ("questions", f"{asked}; documents {probe.documents:,} (counted)"),
    ]
    rows += _training_rows(probe, told) if probe.verb == "fit" else []
    if phases := _asked_rows(probe):
        rows.append(("to be read", f"{phases} (counted)"))
    weights = f"weights {size_text(probe.weight_bytes)}"
    if probe.verb == "fit":
        weights += f", gradients {size_text(probe.gradient_bytes)}, optimizer {size_text(probe.optimizer_bytes)}"
    rows.append(("parameters", f"{probe.parameters:,}, of them {probe.trainable:,} trainable; {weights} (counted)"))
    rows += _memory_rows(probe, told)
    rows += _time_rows(probe, told)
    rows += [("note", note) for note in probe.notes]
    return rows


def _training_rows(probe: Probe, told: Estimate) -> list[tuple[str, str]]:
    each = f"{probe.samples:,} samples an epoch in {probe.train_batches:,} batches of {probe.batch_size}"
    if probe.processes > 1:
        each += f" on each of {probe.processes} processes"
    if told.steps is None:
        whole = "without an end"
    else:
        whole = f"{told.steps:,} steps in all, {told.validations} validations"
    rows = [("training", f"{each}; {whole} (counted)")]
    if tokens := [one.tokens for one in probe.cold if one.tokens]:
        mean = sum(tokens) / len(tokens)
        rows.append(("tokens", f"about {mean:,.0f} a batch (measured), {mean * probe.train_batches:,.0f} an epoch (computed)"))
    return rows


def _asked_rows(probe: Probe) -> str:
    names = {"val": "in each validation", "test": "in the test", "predict": "in the prediction"}
    sums = {phase: sum(one.items for one in of_phase(probe, phase)) for phase in names}
    return ", ".join(f"{sums[phase]:,} {names[phase]}" for phase in names if sums[phase])


def _memory_rows(probe: Probe, told: Estimate) -> list[tuple[str, str]]:
    how = f"measured, the {probe.batch_size} longest of {probe.looked_at:,} samples"
    if probe.ladder and not told.is_measured:
        how = f"computed from batches of up to {probe.ladder[-1].samples} samples"
    elif probe.verb != "fit":
        how = "measured on some batches"
    rows = []
    if probe.device_total:
        parts = probe.weight_bytes + probe.gradient_bytes + probe.optimizer_bytes
        rest = max(0, told.device_bytes - parts - probe.device_other)
        text = f"{size_text(told.device_bytes)} at most ({how}); activations and the rest {size_text(rest)}"
        rows.append(("GPU memory", text))
        rows.append(("main memory", f"{size_text(told.peak_bytes)} at most (measured)"))
    else:
        text = f"{size_text(told.peak_bytes)} at most ({how})"
        if probe.processes > 1:
            text += f", {probe.processes} processes"
        own = f"; {size_text(probe.base_bytes)} of it is the program itself"
        rows.append(("memory", text + own))
    if probe.workers:
        rows.append(("loader workers", f"{probe.workers}; what they hold is not counted"))
    return rows


def _time_rows(probe: Probe, told: Estimate) -> list[tuple[str, str]]:
    timed = probe.warm or probe.cold
    parts = [("start, data and search", told.start_seconds), ("training", told.train_seconds)]
    parts += [("validation", told.validate_seconds), ("test and prediction", told.test_seconds)]
    parts += [("checkpoints", told.checkpoint_seconds)]
    text = ", ".join(f"{name} {clock(seconds)}" for name, seconds in parts if seconds >= 0.5)
    rows = []
    if probe.verb == "fit" and timed:
        rows.append(("a batch", f"{batch_seconds(probe, timed):.3f} s (measured, {len(probe.cold) + len(probe.warm)} batches)"))
    if told.batches is None:
        text = "the run has no end: set --trainer.max_epochs or --trainer.max_steps"
    else:
        text = f"about {clock(told.seconds)} (computed): {text}"
    rows.append(("time", text))
    if probe.store != "none":
        size = size_text(probe.store_bytes)
        ways = {
            "there": f"{size}, is there already",
            "embedded": f"{size} of vectors are what this stage makes (computed)",
            "built": f"{size}, is built at the start (measured)",
            "computed": f"{size}, takes {clock(probe.store_seconds)} to embed (computed from a few documents)",
        }
        rows.append(("evidence store", ways[probe.store]))
    kept = f"{size_text(told.disk_bytes)} stay"
    if probe.checkpoints_kept and probe.checkpoint_bytes:
        kept += f", of it {probe.checkpoints_kept} checkpoints of {size_text(probe.checkpoint_bytes)} (measured)"
    rows.append(("disk", kept))
    return rows


def verdict(probe: Probe, told: Estimate, room: Room) -> tuple[list[Finding], tuple[str, str]]:
    """What does not fit, and the last row of the table."""
    findings, texts = [], []
    if probe.device_total:
        limit = probe.device_total
        findings += _memory(probe, told.device_bytes, limit, probe.device, limit - probe.device_other)
        texts.append(f"{size_text(told.device_bytes)} of {size_text(limit)} on the GPU")
    if room.memory is not None:
        findings += _memory(probe, told.peak_bytes, room.memory, "main memory", room.memory)
        texts.append(f"{size_text(told.peak_bytes)} of {size_text(room.memory)} free memory")
    if told.disk_peak_bytes > TIGHT * room.disk:
        fits = told.disk_peak_bytes <= room.disk
        what = f"the run leaves {size_text(told.disk_peak_bytes)} on disk, {size_text(room.disk)} are free"
        remedy = (
            "give a --trainer.default_root_dir on a larger disk, delete old runs, or set save_top_k of ModelCheckpoint lower"
        )
        kind = "disk_tight" if fits else "disk_does_not_fit"
        findings.append(Finding(kind, "warning" if fits else "error", "trainer.default_root_dir", what, remedy))
    texts.append(f"{size_text(told.disk_peak_bytes)} of {size_text(room.disk)} free disk")
    bad = any(finding.severity == "error" for finding in findings)
    head = "does NOT fit" if bad else "fits, but barely" if findings else "fits"
    return [*findings, *_advice(probe, told)], ("verdict", f"{head}: {', '.join(texts)}")


def _memory(probe: Probe, needed: int, limit: int, of: str, for_training: int) -> list[Finding]:
    one_rung = len(probe.ladder) == 1 and probe.batch_size > 1  # one sample was all that could be tried
    if needed <= TIGHT * limit:
        return []
    fits = needed <= limit and not one_rung
    least = "at least " if one_rung else ""
    what = f"the run needs {least}{size_text(needed)} of {of}, {size_text(limit)} are there"
    kind = "memory_tight" if fits else "memory_does_not_fit"
    return [Finding(kind, "warning" if fits else "error", "data.init_args.batch_size", what, less_memory(probe, for_training))]


def less_memory(probe: Probe, limit: int = 0) -> str:
    """What to change so that a run needs less memory, the mildest first."""
    if probe.verb != "fit":
        return "--data.init_args.eval_batch_size lower, a smaller reader, or quantization nf4 of the backbone"
    batch = max(1, probe.batch_size // 2)
    if fitting := fitting_samples(probe, int(TIGHT * limit)):
        batch = min(max(1, probe.batch_size - 1), fitting)
    each = -(-probe.batch_size * probe.accumulate // batch) if batch else 1
    first = [] if probe.batch_size <= 1 else [LESS_MEMORY[0].format(batch=batch, accumulate=each)]
    return "; or ".join([*first, *LESS_MEMORY[1:]])


def _advice(probe: Probe, told: Estimate) -> list[Finding]:
    """What fits and could be better."""
    findings = []
    timed = probe.warm or probe.cold
    if timed and not probe.workers and told.train_seconds > WORTH_SECONDS:
        data = sum(one.data_seconds for one in timed) / len(timed)
        whole = batch_seconds(probe, timed)
        if data > LOADING_SHARE * whole:
            what = f"making a batch takes {data:.2f} s of the {whole:.2f} s that a step takes, and there is no loader worker"
            findings.append(
                Finding("loading_slow", "note", "data.init_args.num_workers", what, "--data.init_args.num_workers 2")
            )
    if told.batches is None:
        what = "neither max_epochs nor max_steps ends the run"
        findings.append(Finding("run_without_end", "warning", "trainer.max_epochs", what, "--trainer.max_epochs N"))
    if probe.device_total and probe.precision.startswith("32"):
        what = f"precision {probe.precision} on {probe.device}: half precision is several times faster and takes less memory"
        findings.append(Finding("precision_slow", "note", "trainer.precision", what, "--trainer.precision bf16-mixed"))
    return findings


def clock(seconds: float) -> str:
    """``0:00:07`` or ``3 days, 4:00:00``."""
    return str(timedelta(seconds=round(seconds)))


def failure_finding(found: Mapping[str, str], where: str) -> Finding:
    """What is told of a probe that did not come to its end."""
    if found["failure"] == "memory":
        what = f"memory ran out in the probe: {found['text']}"
        return Finding("memory_does_not_fit", "error", where, what, less_memory(Probe(batch_size=2)))
    if found["failure"] == "user":
        return Finding("plan_failed", "error", where, found["text"], "correct it: the run itself would stop with this message")
    remedy = "start the run itself with a small --trainer.max_steps to see the whole message, and tell the developers"
    return Finding("plan_failed", "error", where, found["text"], remedy)
