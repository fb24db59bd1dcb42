"""Searches of a query generator as shards on disk, process by process, and at the end one table."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from medrag_lightning.records import Query
from medrag_lightning.search_files import (
    SHARDS,
    SearchRow,
    check_searches,
    partly_written,
    searches_are_there,
    write_searches,
)


@runtime_checkable
class WritingStage(Protocol):
    """A stage whose searches depend on what `identity` says."""

    def identity(self) -> dict[str, Any]:
        """By name: generator, template, corpora, longest text."""
        ...


@runtime_checkable
class WantedItems(Protocol):
    """What a data module serves to a stage that writes searches: see data/search_feed.py."""

    folder: Path
    wanted: Sequence[Query]
    questions: str
    missing: int


class SearchTableWriter(L.Callback):
    """Writes what `predict` of stage query_generator returns to the folder that the data names (`data.searches.written`).

    Each process writes shards of its own, each in one atomic step; what was written before a run was cut short is not written
    again. When all have finished, process 0 makes one table of them, in the order of the questions. Searches of another
    generator, template, precision or of other questions are refused before anything is written.

    Args:
        rows_per_shard: questions whose searches are kept in memory before they are written.
        seconds_per_shard: longest time after which they are written.
    """

    def __init__(self, rows_per_shard: int = 1024, seconds_per_shard: float = 60.0) -> None:
        if rows_per_shard < 1 or seconds_per_shard <= 0:
            raise ValueError(f"rows and seconds per shard must be positive, got {rows_per_shard} and {seconds_per_shard}")
        self.rows_per_shard, self.seconds_per_shard = rows_per_shard, seconds_per_shard
        self._identity: dict[str, Any] = {}
        self._waiting: dict[str, SearchRow] = {}
        self._number = self._done = 0
        self._began = self._written_at = 0.0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuses a table of something else; says how much there is to do."""
        items = _items(trainer)
        if not isinstance(pl_module, WritingStage):
            raise ValueError(f"SearchTableWriter needs a stage with `identity`; {type(pl_module).__name__} has none")
        self._identity = {**pl_module.identity(), "questions": items.questions, "precision": str(trainer.precision)}
        check_searches(items.folder, self._identity)
        mine = [path.name for path in (items.folder / SHARDS).glob(f"r{trainer.global_rank:05d}-*")]
        self._number = max((int(name.split("-")[1]) + 1 for name in mine), default=0)
        self._waiting, self._done = {}, 0
        self._began = self._written_at = time.monotonic()
        there = len(items.wanted) - items.missing
        rank_zero_info(
            f"searches {items.folder}: those of {there} of {len(items.wanted)} questions are there, {items.missing} to write"
        )
        trainer.strategy.barrier("searches checked")

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Takes the searches of a batch."""
        if not isinstance(outputs, list) or not all(isinstance(row, SearchRow) for row in outputs):
            raise ValueError(f"SearchTableWriter writes what stage query_generator returns, not a {type(outputs).__name__}")
        self._waiting |= {row.query_id: row for row in outputs}
        self._done += 1
        if len(self._waiting) >= self.rows_per_shard or time.monotonic() - self._written_at >= self.seconds_per_shard:
            self._write(_items(trainer).folder, trainer.global_rank)
            batches = int(sum(trainer.num_predict_batches))
            left = timedelta(seconds=round((time.monotonic() - self._began) / self._done * (batches - self._done)))
            rank_zero_info(f"wrote searches for {self._done}/{batches} batches a process, ETA {left}")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Keeps what has been written; a kill without notice loses at most one shard."""
        if self._waiting:
            self._write(_items(trainer).folder, trainer.global_rank)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the rest, waits for the other processes, and makes the table."""
        items = _items(trainer)
        self._write(items.folder, trainer.global_rank)
        trainer.strategy.barrier("shards written")
        if trainer.is_global_zero:
            self._finish(items)
        trainer.strategy.barrier("searches written")

    def _write(self, folder: Path, rank: int) -> None:
        if self._waiting:
            write_searches(folder / SHARDS / f"r{rank:05d}-{self._number:06d}", list(self._waiting.values()), self._identity)
            self._number += 1
        self._waiting, self._written_at = {}, time.monotonic()

    def _finish(self, items: WantedItems) -> None:
        if searches_are_there(items.folder) and not items.missing:
            shutil.rmtree(items.folder / SHARDS, ignore_errors=True)
            return  # nothing new: the table stays as it is, to the byte
        rows = {row.query_id: row for row in partly_written(items.folder)}
        lacking = [query.id for query in items.wanted if query.id not in rows]
        if lacking:
            rank_zero_warn(
                f"searches {items.folder}: those of {len(lacking)} of {len(items.wanted)} questions are still missing (was the "
                "number of batches limited?), so the table is not finished; run `predict` again"
            )
            return
        whole = [rows[query.id] for query in items.wanted]
        write_searches(items.folder, whole, self._identity)
        shutil.rmtree(items.folder / SHARDS, ignore_errors=True)
        faulty = sum(bool(row.faults) for row in whole)
        rank_zero_info(
            f"searches {items.folder}: finished, {len(whole)} questions, {faulty} texts with a fault. To search with them: "
            f"--data.init_args.searches.table {items.folder}"
        )


def _items(trainer: L.Trainer) -> WantedItems:
    items = getattr(trainer.predict_dataloaders, "dataset", None)
    if not isinstance(items, WantedItems):
        raise ValueError(f"SearchTableWriter needs the feed of stage query_generator, got {type(items).__name__}")
    return items
