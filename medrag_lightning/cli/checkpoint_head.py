"""What the command needs to know of a checkpoint before anything is built: its stage, its step, which one was best."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # the name of torch's refusal; nothing is unpickled
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class CheckpointHead:
    """Facts of a checkpoint; None where it does not tell."""

    stage: str | None = None
    logged_step: int | None = None
    best_path: str | None = None


def read_head(path: Path) -> CheckpointHead:
    """The head of a checkpoint, its tensors left on disk. A damaged file gives an empty one: loading it says what is wrong."""
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, OSError, ValueError, UnpicklingError):
        return CheckpointHead()
    loops = checkpoint.get("loops", {}).get("fit_loop", {})
    callbacks = checkpoint.get("callbacks", {}).values()
    best = next((state["best_model_path"] for state in callbacks if state.get("best_model_path")), None)
    return CheckpointHead(
        stage=checkpoint.get("medrag", {}).get("stage"),
        logged_step=loops.get("epoch_loop.state_dict", {}).get("_batches_that_stepped"),
        best_path=best,
    )
