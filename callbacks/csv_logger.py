"""``metrics.csv`` in the run folder, kept whole over interruptions."""

from __future__ import annotations

import csv
import os
from argparse import Namespace
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from medrag_lightning.artifacts import atomic_write
from medrag_lightning.disk import refusals_told

Row = dict[str, Any]


class AppendingCSVLogger(Logger):
    """Writes one row per logged step to ``<save_dir>/metrics.csv``; a resumed run goes on in the same file.

    Stock `CSVLogger` deletes the file that it finds. Here the rows of earlier steps stay, and rows that a resumed run
    logs again replace those from before the interruption, so the file is that of a run that never stopped (but for
    one row, where a kill came between a checkpoint and the log of its step).

    Args:
        save_dir: the folder, normally ``${run_folder}``.
        flush_every_n_rows: rows held in memory before they are written; 1 loses nothing to a kill.
    """

    def __init__(self, save_dir: str, flush_every_n_rows: int = 1) -> None:
        super().__init__()
        if flush_every_n_rows < 1:
            raise ValueError(f"flush_every_n_rows must be at least 1, got {flush_every_n_rows}")
        self._folder, self._flush_every = Path(save_dir), flush_every_n_rows
        self._columns: list[str] | None = None
        self._pending: list[Row] = []
        self._resumed_step: int | None = None

    @property
    def name(self) -> str:
        """Empty: the run folder is the name."""
        return ""

    @property
    def version(self) -> str:
        """Empty: the run folder is the version."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self._folder)

    @property
    def path(self) -> Path:
        """The file."""
        return self._folder / "metrics.csv"

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Forgets what was logged after `step`; rows of `step` itself give way once they are logged again."""
        self._columns, self._resumed_step = None, step
        if self.path.is_file():
            columns, rows = self._read()
            self._rewrite(columns, [row for row in rows if int(row["step"]) <= step])

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: ``config.yaml`` in the run folder holds the whole configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds a row."""
        row = {key: value.item() if hasattr(value, "item") else value for key, value in metrics.items()}
        row["step"] = len(self._pending) if step is None else step
        if self._resumed_step is not None:
            self._replace_repeated(row)
        self._pending.append(row)
        if len(self._pending) >= self._flush_every:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Writes the rows held in memory."""
        if not self._pending:
            return
        if self._columns is None:
            self._columns = self._mend() if self.path.is_file() else []
        new = sorted({key for row in self._pending for key in row} - set(self._columns))
        if new:
            rows = self._read()[1] if self.path.is_file() else []
            self._rewrite([*self._columns, *new], [*rows, *self._pending])
        else:
            self._append(self._columns)
        self._pending = []

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes the rows held in memory."""
        self.save()

    def _replace_repeated(self, row: Row) -> None:
        if row["step"] != self._resumed_step:
            self._resumed_step = self._resumed_step if row["step"] < (self._resumed_step or 0) else None
            return
        if self.path.is_file():
            columns, rows = self._read()
            kept = [old for old in rows if int(old["step"]) != row["step"] or not _same_kind(old, row)]
            if len(kept) < len(rows):
                self._rewrite(columns, kept)

    def _mend(self) -> list[str]:
        """The columns of the file that is there, once a last row cut short by a kill is gone."""
        columns, rows = self._read()
        if not self.path.read_bytes().endswith(b"\n"):
            self._rewrite(columns, rows)
        return columns

    def _append(self, columns: list[str]) -> None:
        """Adds the rows held in memory; where the disk refuses, none of them."""
        before_bytes = self.path.stat().st_size if self.path.is_file() else 0
        try:
            with refusals_told(self.path), self.path.open("a", newline="", encoding="utf-8") as stream:
                csv.DictWriter(stream, columns, lineterminator="\n").writerows(self._pending)
        except OSError:
            with suppress(OSError):
                os.truncate(self.path, before_bytes)
            raise

    def _read(self) -> tuple[list[str], list[Row]]:
        """Columns and rows, without a last row that a kill has cut short: it may look whole, and lacks its line's end."""
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        reader = csv.DictReader(line for line in lines if line.endswith("\n"))
        rows = [row for row in reader if row.get("step") and None not in row.values()]
        return list(reader.fieldnames or []), rows

    def _rewrite(self, columns: list[str], rows: list[Row]) -> None:
        with atomic_write(self.path, "w") as stream:
            writer = csv.DictWriter(stream, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        self._columns = columns


def _same_kind(old: Row, new: Row) -> bool:
    """Whether two rows hold a common metric; `epoch` and `step` stand in every row."""
    filled = {key for key, value in old.items() if value not in ("", None)}
    return bool((filled & set(new)) - {"epoch", "step"})
