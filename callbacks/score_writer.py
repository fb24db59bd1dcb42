"""Scores of a scoring run as shards on disk, pack by pack and process by process, and at the end one table."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from medrag_lightning.artifacts import write_manifest
from medrag_lightning.records import Score
from medrag_lightning.score_files import (
    IDENTITY,
    MANIFEST,
    SCHEMA,
    SHARDS,
    Key,
    check_identity,
    merge,
    row_files,
    rows_there,
    to_table,
    write_shard,
)


@runtime_checkable
class ScoringStage(Protocol):
    """A stage whose scores depend on what `identity` says."""

    def identity(self) -> dict[str, Any]:
        """By name: reader, template, generation."""
        ...


@runtime_checkable
class ScoringItems(Protocol):
    """What a data module serves to a scoring stage: see data/scoring_feed.py."""

    folder: Path
    corpus: str
    wanted: list[Key]
    missing: int
    query_sha256: Mapping[str, str]


class ScoreWriter(L.Callback):
    """Writes what `predict` of the scoring stage returns to the folder that the data module names (`data.scoring.table`).

    Each process writes shards of its own, whole packs at a time, each in one atomic step; what was written before a run was
    cut short is not computed again. When all processes have finished, process 0 merges everything into ``scores.arrow`` and
    writes the manifest last. Rows of another reader, template, corpus, precision or of other generation settings are refused
    before anything is computed. The table holds query ids and document ids, never patient or study ids.

    Args:
        rows_per_shard: rows that are kept in memory before they are written.
        seconds_per_shard: longest time after which they are written.
    """

    def __init__(self, rows_per_shard: int = 4096, seconds_per_shard: float = 60.0) -> None:
        if rows_per_shard < 1 or seconds_per_shard <= 0:
            raise ValueError(f"rows and seconds per shard must be positive, got {rows_per_shard} and {seconds_per_shard}")
        self.rows_per_shard, self.seconds_per_shard = rows_per_shard, seconds_per_shard
        self._waiting: list[Score] = []
        self._number = 0
        self._began = self._written_at = 0.0
        self._done = self._rows = 0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuses a table of something else; says how much there is to do."""
        items = _items(trainer)
        identity = _identity(trainer, pl_module, items)
        check_identity(items.folder, identity)
        trainer.strategy.barrier("identity checked")
        if trainer.is_global_zero and not (items.folder / IDENTITY).is_file():
            write_manifest(items.folder / IDENTITY, identity)
        mine = [path.name for path in (items.folder / SHARDS).glob(f"r{trainer.global_rank:05d}-*.arrow")]
        self._number = max((int(name.split("-")[1]) + 1 for name in mine), default=0)
        self._waiting, self._done, self._rows = [], 0, 0
        self._began = self._written_at = time.monotonic()
        there = len(items.wanted) - items.missing
        rank_zero_info(f"score table {items.folder}: {there} of {len(items.wanted)} rows are there, {items.missing} to compute")
        trainer.strategy.barrier("identity written")

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Takes the scores of a pack."""
        if not isinstance(outputs, list) or not all(isinstance(row, Score) for row in outputs):
            raise ValueError(f"ScoreWriter writes what the scoring stage returns, not a {type(outputs).__name__}")
        self._waiting += outputs
        self._done, self._rows = self._done + 1, self._rows + len(outputs)
        due = time.monotonic() - self._written_at >= self.seconds_per_shard
        if len(self._waiting) >= self.rows_per_shard or due:
            self._write(trainer)
            self._say(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Keeps what has been computed; a kill without notice loses at most one shard."""
        self._write(trainer)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the rest, waits for the other processes, and merges everything."""
        self._write(trainer)
        trainer.strategy.barrier("shards written")
        if trainer.is_global_zero:
            self._finish(_items(trainer))
        trainer.strategy.barrier("table written")

    def _write(self, trainer: L.Trainer) -> None:
        if self._waiting:
            items = _items(trainer)
            rows = to_table(self._waiting, items.query_sha256)
            write_shard(items.folder, trainer.global_rank, self._number, rows)
            self._number += 1
        self._waiting, self._written_at = [], time.monotonic()

    def _say(self, trainer: L.Trainer) -> None:
        """Process 0 speaks for all: packs are dealt out in turn."""
        seconds, packs = time.monotonic() - self._began, int(sum(trainer.num_predict_batches))
        left = timedelta(seconds=round(seconds / self._done * (packs - self._done)))
        pace = self._rows * trainer.world_size / seconds
        rank_zero_info(f"scored {self._done}/{packs} packs a process, about {pace:.1f} rows/s in all, ETA {left}")

    def _finish(self, items: ScoringItems) -> None:
        shards = [path for path in row_files(items.folder) if path.parent.name == SHARDS]
        if not shards and (items.folder / MANIFEST).is_file():
            return  # nothing new: the table stays as it is, to the byte
        lacking = set(items.wanted).difference(key for key, _ in rows_there(items.folder))
        if lacking:
            rank_zero_warn(
                f"score table {items.folder}: {len(lacking)} of {len(items.wanted)} rows are still missing (was the number of "
                "batches limited?), so it is not finished; run `predict` again"
            )
            return
        rank_zero_info(f"score table {items.folder}: finished with {merge(items.folder)} rows")


def _identity(trainer: L.Trainer, stage: L.LightningModule, items: ScoringItems) -> dict[str, Any]:
    if not isinstance(stage, ScoringStage):
        raise ValueError(f"ScoreWriter needs a stage with `identity`; {type(stage).__name__} has none")
    return {"schema": SCHEMA, "corpus": items.corpus, **stage.identity(), "precision": str(trainer.precision)}


def _items(trainer: L.Trainer) -> ScoringItems:
    items = getattr(trainer.predict_dataloaders, "dataset", None)
    if not isinstance(items, ScoringItems):
        raise ValueError(f"ScoreWriter needs the scoring feed of the data module, got {type(items).__name__}")
    return items
