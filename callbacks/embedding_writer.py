"""Vectors of an embedding run as shards on disk, chunk by chunk and process by process, ready to be merged into a store."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np

from medrag_lightning.artifacts import sha256_file, write_manifest, write_npy
from medrag_lightning.batches import Embedded
from medrag_lightning.interfaces import Retriever

SHARDS, COMPLETE, STORE_MANIFEST = "shards", "complete.json", "manifest.json"


class EmbeddingWriter(L.Callback):
    """Writes what `predict` of the embedding stage returns to ``shards`` in the store's folder.

    Each process writes chunks of its own; when all have finished, process 0 writes ``complete.json``, and only then will a
    search or the verb `index` merge them into a store. Leftovers of a run that was cut short are removed at the start.

    Args:
        folder: the store's folder; null for the one that the data module names (`evidence_folder`).
        rows_per_chunk: items that are kept in memory before they are written.
    """

    def __init__(self, folder: str | None = None, rows_per_chunk: int = 8192) -> None:
        if rows_per_chunk < 1:
            raise ValueError(f"rows_per_chunk must be at least 1, got {rows_per_chunk}")
        self.folder, self.rows_per_chunk = folder, rows_per_chunk
        self._waiting: list[Embedded] = []
        self._written = 0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuses a folder that already holds a store; clears leftovers."""
        _encoder(pl_module)
        shards = self._shards(trainer)
        if (shards.parent / STORE_MANIFEST).exists():
            raise ValueError(f"{shards.parent} already holds an evidence store; delete it, or write to another folder")
        trainer.strategy.barrier("old shards")
        if trainer.is_global_zero and shards.exists():
            shutil.rmtree(shards)
        trainer.strategy.barrier("no shards")
        self._waiting, self._written = [], 0

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Takes the vectors of a batch."""
        if not isinstance(outputs, Embedded):
            raise ValueError(f"EmbeddingWriter writes what the embedding stage returns, not a {type(outputs).__name__}")
        self._waiting.append(outputs)
        if sum(max(len(one.image_index), len(one.text_index)) for one in self._waiting) >= self.rows_per_chunk:
            self._write(trainer)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the rest, waits for the other processes, and marks the shards as complete."""
        self._write(trainer)
        trainer.strategy.barrier("shards written")
        if trainer.is_global_zero:
            shards, encoder = self._shards(trainer), _encoder(pl_module)
            told = {
                "encoder": {"fingerprint": encoder.fingerprint(), "parts": encoder.describe()},
                "dim": encoder.dim,
                "processes": trainer.world_size,
                "chunks": sorted(path.stem for path in shards.glob("r*.json")),
            }
            write_manifest(shards / COMPLETE, told)
        trainer.strategy.barrier("shards complete")

    def _write(self, trainer: L.Trainer) -> None:
        """One chunk: the vectors, then the JSON that says whose they are."""
        if not self._waiting:
            return
        name, shards = f"r{trainer.global_rank:05d}-{self._written:05d}", self._shards(trainer)
        fields = ("image_index", "image_sha256", "text_index", "text_sha256")
        told: dict[str, Any] = {field: [value for one in self._waiting for value in getattr(one, field)] for field in fields}
        for side in ("image", "text"):
            path = shards / f"{name}.{side}.npy"
            write_npy(path, np.concatenate([getattr(one, f"{side}_ND") for one in self._waiting]))
            told[f"{side}_file_sha256"] = sha256_file(path)
        write_manifest(shards / f"{name}.json", told)
        self._waiting, self._written = [], self._written + 1

    def _shards(self, trainer: L.Trainer) -> Path:
        if self.folder is not None:
            return Path(self.folder) / SHARDS
        named = getattr(getattr(trainer, "datamodule", None), "evidence_folder", None)
        if named is None:
            raise ValueError("EmbeddingWriter has no folder and the data module names none; give it a folder")
        return Path(named()) / SHARDS


def _encoder(stage: L.LightningModule) -> Retriever:
    encoder = getattr(stage, "encoder", None)
    if not isinstance(encoder, Retriever):
        raise ValueError(f"EmbeddingWriter needs a stage with a retriever as its `encoder`; {type(stage).__name__} has none")
    return encoder
