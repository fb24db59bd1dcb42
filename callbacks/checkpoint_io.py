"""Checkpoints that are whole or not there: atomic, checked on load, never unpickled code."""

from __future__ import annotations

import zipfile
from pathlib import Path
from pickle import UnpicklingError  # the name of torch's refusal; nothing is unpickled
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from medrag_lightning.artifacts import atomic_write


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint beside its final name, flushes it to disk, then renames it; checks it before it is loaded.

    A kill, a crash or a full disk leaves the previous file untouched. A checkpoint is a zip archive that carries a
    CRC-32 for each of its records, so a damaged or cut file is recognised without a second file beside it.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Saves to `path`. OSError (disk full, no permission) leaves what was there before."""
        if storage_options is not None:
            raise ValueError(f"AtomicCheckpointIO takes no storage_options, got {storage_options!r}")
        try:
            with atomic_write(path) as stream:
                torch.save(checkpoint, stream)
        except RuntimeError as error:  # torch's archive writer hides the cause behind its own complaint
            if isinstance(error.__context__, OSError):
                cause = error.__context__
                raise OSError(cause.errno, f"{cause.strerror}; the checkpoint was not written", str(path)) from error
            raise

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Loads plain data only: nothing in the file is run. ValueError for a damaged file names one that is whole.

        Args:
            path: the file.
            map_location: as for `torch.load`; the CPU by default.
            weights_only: only None and True are accepted.
        """
        if weights_only is False:
            raise ValueError("loading more than weights would run code from the checkpoint; it is not supported")
        path = Path(path)
        check_whole(path)
        try:
            loaded: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except UnpicklingError as error:
            raise ValueError(
                f"checkpoint {path} holds more than tensors and plain data; it is not one of ours, and nothing in it was run"
            ) from error
        return loaded

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes the file, if it is there."""
        Path(path).unlink(missing_ok=True)


def check_whole(path: str | Path) -> None:
    """Raises FileNotFoundError if `path` is missing, ValueError if its bytes are not those that were written."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint not found: {path}")
    fault = find_damage(path)
    if fault:
        whole = newest_whole(path.parent, besides=path)
        remedy = f"use {whole} instead" if whole else "no other whole checkpoint lies beside it"
        raise ValueError(f"checkpoint {path} is damaged ({fault}); {remedy}")


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
