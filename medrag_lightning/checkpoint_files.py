"""Checkpoint files: whether one is whole (a zip archive, whose records carry their checksums), and its plain data."""

from __future__ import annotations

import zipfile
from pathlib import Path
from pickle import UnpicklingError  # the name of torch's refusal; nothing is unpickled
from typing import Any

from medrag_lightning.artifacts import file_fault


def load_whole(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The plain data and tensors of a checkpoint, of which nothing is run; raises as `check_whole` does."""
    import torch

    check_whole(path)
    try:
        loaded: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"checkpoint {path} holds more than tensors and plain data; it is not one of ours, and nothing in it was run"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, IndexError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"checkpoint {path} is damaged ({type(error).__name__}); {_remedy(Path(path))}") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"checkpoint {path} is not one of ours: it holds a {type(loaded).__name__}")
    return loaded


def check_whole(path: str | Path) -> None:
    """Raises FileNotFoundError if `path` is missing, ValueError if its bytes are not those that were written."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"checkpoint not found: {path}")
    if kind := file_fault(path):
        raise ValueError(f"checkpoint {path} {kind}")
    fault = find_damage(path)
    if fault:
        raise ValueError(f"checkpoint {path} is damaged ({fault}); {_remedy(path)}")


def _remedy(path: Path) -> str:
    whole = newest_whole(path.parent, besides=path)
    return f"use {whole} instead" if whole else "no other whole checkpoint lies beside it"


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint file; None if every record matches its CRC-32."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        return f"cut short or not a checkpoint: {error}"
    return f"record {broken} does not match its checksum" if broken else None


def newest_whole(folder: Path, besides: Path) -> Path | None:
    """The newest undamaged ``.ckpt`` in `folder` other than `besides`."""
    others = [path for path in folder.glob("*.ckpt") if path != besides]
    for path in sorted(others, key=lambda p: p.stat().st_mtime_ns, reverse=True):
        if find_damage(path) is None:
            return path
    return None
