"""The part `machine` of the verb `check`: versions, disk, memory, cores, accelerators, and settings that slow a run down."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from medrag_lightning.cli.hardware import (
    GIB,
    Gpu,
    cores,
    disk_free,
    existing,
    gpus,
    gpus_of_driver,
    hub_cache,
    load_average,
    memory,
    size_text,
)
from medrag_lightning.cli.packages import installed, package_findings
from medrag_lightning.data.audit.findings import Finding

LITTLE_DISK, NO_DISK, LITTLE_MEMORY, LITTLE_SHARED = 5 * GIB, GIB // 2, 2 * GIB, GIB
SHARED = Path("/dev/shm")  # loader workers pass batches through it

Found = tuple[list[Finding], list[tuple[str, str]]]


def machine_findings(runs_folder: Path) -> Found:
    """What is wrong with this machine, and a table of two columns that says what it is.

    Args:
        runs_folder: where runs go; it need not be there yet.
    """
    findings, rows = package_findings()
    for part in (disk(runs_folder), memory_and_cores(), accelerators(), threads(), data_and_hub()):
        findings += part[0]
        rows += part[1]
    return findings, rows


def disk(runs_folder: Path) -> Found:
    """Whether runs can be written, and how much."""
    there, free = existing(runs_folder), disk_free(runs_folder)
    where = f"{runs_folder}/"
    findings = []
    if not there.is_dir():
        what, remedy = f"{there} is a file where a folder is needed", "move it, or give another --trainer.default_root_dir"
        findings.append(Finding("runs_not_writable", "error", where, what, remedy))
    elif not os.access(there, os.W_OK | os.X_OK):
        what = f"nothing can be written to {there}"
        remedy = "ask for the right to write, or give another --trainer.default_root_dir"
        findings.append(Finding("runs_not_writable", "error", where, what, remedy))
    if free < LITTLE_DISK:
        what = f"{size_text(free)} are free where runs are written"
        remedy = "delete old runs (checkpoints are the largest files), or give a --trainer.default_root_dir on another disk"
        findings.append(Finding("disk_nearly_full", "error" if free < NO_DISK else "warning", where, what, remedy))
    return findings, [("disk free for runs", f"{size_text(free)} ({there})")]


def memory_and_cores() -> Found:
    """Main memory, shared memory of loader workers, cores and how busy they are."""
    findings, rows = [], []
    if (found := memory()) is not None:
        rows.append(("memory", f"{size_text(found.available)} of {size_text(found.total)} free"))
        if found.available < LITTLE_MEMORY:
            what = f"{size_text(found.available)} of memory are free; the smallest run takes about 1 GB"
            remedy = "end other programs, or give the container more memory"
            findings.append(Finding("memory_short", "warning", "memory", what, remedy))
    if SHARED.is_dir() and (free := disk_free(SHARED)) < LITTLE_SHARED:
        what = (
            f"{SHARED} has {size_text(free)}: loader workers (data.init_args.num_workers) stop with a bus error when it is full"
        )
        remedy = "start the container with --shm-size=8g, or leave num_workers at 0"
        findings.append(Finding("shared_memory_short", "warning", str(SHARED), what, remedy))
    mine, load = cores(), load_average()
    rows.append(("cores", f"{mine:g}" + (f", load {load:.1f}" if load is not None else "")))
    if load is not None and load > mine + 0.5:
        what = (
            f"{load:.1f} processes want {mine:g} cores: runs are slower than told here, and measured times are not comparable"
        )
        findings.append(
            Finding("machine_busy", "note", "cores", what, "wait until other jobs are done before you time anything")
        )
    return findings, rows


def accelerators() -> Found:
    """The GPUs that torch can use, and those that it cannot."""
    found, of_driver = gpus(), gpus_of_driver()
    findings, rows = [], []
    if of_driver and not found:
        if hidden := os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
            remedy = "unset CUDA_VISIBLE_DEVICES, or name a device in it"
        else:
            remedy = "install a CUDA build of torch that this driver supports (pip install torch on a machine with the driver)"
        why = (
            "CUDA_VISIBLE_DEVICES hides it" if hidden else f"torch {installed('torch') or 'is not installed and'} cannot use it"
        )
        what = f"the driver lists {of_driver[0]}, but {why}: runs would be on the CPU"
        findings.append(Finding("gpu_not_usable", "warning", "torch", what, remedy))
    for number, gpu in enumerate(found):
        findings += _gpu_findings(number, gpu)
        bf16 = "bf16" if gpu.bf16 else "no bf16"
        rows.append((f"GPU {number}", f"{gpu.name}, {size_text(gpu.free)} of {size_text(gpu.total)} free, {bf16}"))
    if not found:
        rows.append(("GPU", "none that torch can use" if installed("torch") else "torch is not installed"))
    return findings, rows


def _gpu_findings(number: int, gpu: Gpu) -> list[Finding]:
    findings = []
    where = f"GPU {number}"
    if not gpu.bf16:
        what = f"{gpu.name} does not compute in bfloat16: --trainer.precision bf16-mixed would be slow or fail"
        findings.append(Finding("gpu_without_bf16", "note", where, what, "use --trainer.precision 16-mixed or 32-true there"))
    if gpu.free < 0.8 * gpu.total:
        what = f"{size_text(gpu.total - gpu.free)} of the memory of {gpu.name} are taken by other programs"
        remedy = "see nvidia-smi; choose a free device with CUDA_VISIBLE_DEVICES"
        findings.append(Finding("gpu_in_use", "warning", where, what, remedy))
    return findings


def threads(environment: Mapping[str, str] = os.environ) -> Found:
    """Settings of OpenMP that make a run slow."""
    findings = []
    spin, policy = environment.get("GOMP_SPINCOUNT"), environment.get("OMP_WAIT_POLICY", "").lower()
    if spin not in (None, "0") or policy == "active":
        told = f"GOMP_SPINCOUNT={spin}" if spin not in (None, "0") else "OMP_WAIT_POLICY=active"
        what = f"{told}: idle OpenMP threads spin, which makes a busy machine many times slower"
        findings.append(
            Finding("threads_spin", "warning", told.split("=")[0], what, "export GOMP_SPINCOUNT=0; unset OMP_WAIT_POLICY")
        )
    asked = environment.get("OMP_NUM_THREADS", "")
    mine = cores()
    if asked.isdigit() and int(asked) > mine:
        what = f"OMP_NUM_THREADS={asked}, and this process may use {mine:g} cores: threads wait for each other"
        findings.append(
            Finding("threads_too_many", "warning", "OMP_NUM_THREADS", what, f"export OMP_NUM_THREADS={max(1, int(mine))}")
        )
    names = ("GOMP_SPINCOUNT", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM")
    told = ", ".join(f"{name}={environment[name]}" for name in names if name in environment)
    return findings, [("threads", told or "as the libraries choose")]


def data_and_hub(environment: Mapping[str, str] = os.environ) -> Found:
    """Where public data and downloaded models lie."""
    findings = []
    data = environment.get("MEDRAG_DATA")
    if data is not None and not Path(data).is_dir():
        what = f"MEDRAG_DATA={data} is not a folder"
        findings.append(
            Finding("data_folder_missing", "error", "MEDRAG_DATA", what, "export MEDRAG_DATA=FOLDER, that of your data")
        )
    cache = hub_cache(environment)
    is_offline = any(environment.get(name, "").lower() in ("1", "true", "yes", "on") for name in _OFFLINE)
    models = sorted(path.name for path in cache.glob("models--*")) if cache.is_dir() else []
    text = f"{len(models)} models in {cache}" + (", offline: nothing is downloaded" if is_offline else "")
    if is_offline and not models:
        what = "Hugging Face is offline (HF_HUB_OFFLINE) and its cache holds no model: only tiny readers and local folders work"
        remedy = "unset HF_HUB_OFFLINE to download, or set HF_HOME to a cache that has the models"
        findings.append(Finding("hub_cache_empty", "note", str(cache), what, remedy))
    elif not is_offline and disk_free(cache) < 4 * LITTLE_DISK:
        what = f"{size_text(disk_free(cache))} are free where models are downloaded to; one of 7 billion weights takes 15 GB"
        findings.append(Finding("hub_cache_short", "warning", str(cache), what, "set HF_HOME to a folder on a larger disk"))
    return findings, [("MEDRAG_DATA", data or "not set"), ("model cache", text)]


_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
