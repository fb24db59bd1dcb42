"""What this machine has: cores, memory, disk and accelerators, as far as this process may use them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30
_NO_LIMIT = 2**60  # what version 1 of control groups writes where there is none
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Memory:
    """Main memory in bytes: all that this process may have (a container's limit counts), and what is free now."""

    total: int
    available: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """An accelerator that torch sees. Memory in bytes."""

    name: str
    total: int
    free: int
    bf16: bool


def memory(root: Path = Path("/proc"), cgroup: Path = _CGROUP) -> Memory | None:
    """None where the system does not say."""
    try:
        lines = (root / "meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return _memory_elsewhere()
    told = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if len(line.split()) > 1}
    total, available = told["MemTotal"], told.get("MemAvailable", told.get("MemFree", 0))
    for limit_name, used_name in (("memory.max", "memory.current"), (_V1, _V1_USED)):
        limit, used = _number(cgroup / limit_name), _number(cgroup / used_name)
        if limit is not None and limit < min(total, _NO_LIMIT):
            total, available = limit, min(available, limit - (used or 0) + _reclaimable(cgroup))
    return Memory(total, max(0, available))


_V1, _V1_USED = "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"


def _memory_elsewhere() -> Memory | None:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
    return Memory(total, total)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # not there, or `max`
        return None


def _reclaimable(cgroup: Path) -> int:
    """File cache that a container's use counts and that is given up when memory is asked for."""
    for name in ("memory.stat", "memory/memory.stat"):
        try:
            lines = (cgroup / name).read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        return sum(int(line.split()[1]) for line in lines if line.split()[:1] in (["inactive_file"], ["total_inactive_file"]))
    return 0


def cores(cgroup: Path = _CGROUP) -> float:
    """Cores that this process may use: its affinity, and a container's share of them."""
    mine = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota, period = _number(cgroup / "cpu/cpu.cfs_quota_us"), _number(cgroup / "cpu/cpu.cfs_period_us")
    try:
        words = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        quota, period = (int(words[0]), int(words[1])) if words[0] != "max" else (None, None)
    except (OSError, ValueError, IndexError):
        pass  # not version 2
    return min(mine, quota / period) if quota and quota > 0 and period else mine


def load_average() -> float | None:
    """Processes that want to run, over the last minute."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def existing(folder: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def disk_free(folder: Path) -> int:
    """Bytes that may still be written where `folder` is or would be."""
    return shutil.disk_usage(existing(folder)).free


def gpus() -> list[Gpu]:
    """The accelerators that torch can use; none without torch."""
    try:
        import torch
    except ImportError:
        return []
    found = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(number)
        with torch.cuda.device(number):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        found.append(Gpu(torch.cuda.get_device_name(number), int(total), int(free), bool(bf16)))
    return found


def gpus_of_driver() -> list[str]:
    """The NVIDIA GPUs that the driver lists, whether torch can use them or not."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    asked = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def hub_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """Where Hugging Face keeps what it has downloaded."""
    home = environment.get("HF_HOME") or str(Path(environment.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface")
    return Path(environment.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def size_text(count: float) -> str:
    """Bytes as a person reads them: ``812 MB``, ``3.4 GB`` (powers of ten)."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            value = count / size
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
    return f"{count:.0f} B"
