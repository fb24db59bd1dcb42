"""Checkpoints that are whole or not there: atomic, checked on load, never unpickled code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from medrag_lightning.artifacts import atomic_write
from medrag_lightning.checkpoint_files import load_whole


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint beside its final name, flushes it to disk, then renames it; checks it before it is loaded.

    A kill, a crash or a full disk leaves the previous file untouched. A checkpoint is a zip archive that carries a
    CRC-32 for each of its records, so a damaged or cut file is recognised without a second file beside it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Saves to `path`. `DiskError` (disk full, no permission) leaves what was there before."""
        if storage_options is not None:
            raise ValueError(f"AtomicCheckpointIO takes no storage_options, got {storage_options!r}")
        with atomic_write(path) as stream:
            torch.save(checkpoint, stream)

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
        return load_whole(path, map_location or "cpu")

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes the file, if it is there."""
        Path(path).unlink(missing_ok=True)
