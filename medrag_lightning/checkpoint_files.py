"""Checkpoint files as plain data: tensors, numbers and texts. Nothing in a file is ever run."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError  # the name of torch's refusal; nothing is unpickled
from typing import Any

import torch

from medrag_lightning.artifacts import file_fault


def read_checkpoint_file(path: str | Path) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU.

    Raises:
        ValueError: it is no file, it is damaged, or it holds more than plain data (which could run code).
    """
    if fault := file_fault(path):
        raise ValueError(f"{path}: the checkpoint {fault}")
    try:
        told = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"{path}: no checkpoint of ours: it holds more than tensors and plain data, or is damaged; nothing in it was run"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, IndexError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable checkpoint ({type(error).__name__}); name another one") from error
    if not isinstance(told, dict):
        raise ValueError(f"{path}: no checkpoint of ours: it holds a {type(told).__name__}")
    return told
