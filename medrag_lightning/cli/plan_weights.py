"""Pretrained weights that cannot fit are refused by the size of their files, before they are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from medrag_lightning.cli.hardware import hub_cache, memory, size_text

BYTES_OF_NF4 = 0.3  # of half-precision files, with what is kept beside the 4-bit weights
DEPTH = 4


class WeightsTooLargeError(Exception):
    """Pretrained weights are larger than the memory of this machine."""


def refuse_large_weights(stage: Any) -> None:
    """WeightsTooLargeError where a pretrained reader's files are larger than the memory that is free; unknown sizes pass."""
    free = free_memory()
    for backbone in pretrained(getattr(stage, "reader", None)):
        files = weight_bytes(str(backbone.name))
        needed = files * (BYTES_OF_NF4 if backbone.quantization else 1.0)
        if free is not None and needed > free:
            raise WeightsTooLargeError(f"the weights of {backbone.name} are {size_text(needed)}, {size_text(free)} are free")


def pretrained(reader: Any) -> Iterator[Any]:
    """The pretrained backbones of a reader: its own, or one inside another."""
    inner = getattr(reader, "backbone", None)
    for _ in range(DEPTH):
        if inner is None:
            return
        if hasattr(inner, "name") and hasattr(inner, "quantization"):
            yield inner
        inner = getattr(inner, "backbone", None)


def weight_bytes(name: str) -> int:
    """Safetensors files of a local folder, or of the newest snapshot in the download cache; 0 where there are none yet."""
    folders = [Path(name)]
    folders += sorted((hub_cache() / f"models--{name.replace('/', '--')}" / "snapshots").glob("*"), key=_age)
    found = [path.stat().st_size for folder in folders[:1] for path in folder.glob("*.safetensors")]
    if not found and len(folders) > 1:
        found = [path.stat().st_size for path in folders[1].glob("*.safetensors")]
    return sum(found)


def free_memory() -> int | None:
    """Of the GPU that a run would be on, else of the machine; None where it is not known."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    found = memory()
    return None if found is None else found.available


def _age(path: Path) -> float:
    return -path.stat().st_mtime
