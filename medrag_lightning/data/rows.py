"""Rows of tables on disk: typed access to their fields, and every fault of a file in one message.

A parser turns one `Row` into records and raises ValueError when it cannot; `parse_rows` runs it over all rows and raises one
ValueError that lists every bad row with file and line. Readers for JSONL, JSON, CSV, TSV and parquet are in `row_files`.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from medrag_lightning.records import Document, Query, Split

SHOWN_FAULTS = 50
SHOWN_CHARS = 80
NEAR_KEY = 0.76  # difflib ratio; "study" is this near to "study_id", "age" is not to "image"
SPLITS = {
    "train": Split.TRAIN,
    "training": Split.TRAIN,
    "val": Split.VAL,
    "valid": Split.VAL,
    "validate": Split.VAL,
    "validation": Split.VAL,
    "dev": Split.VAL,
    "test": Split.TEST,
    "testing": Split.TEST,
}

Record = TypeVar("Record", Query, Document)


class BadRowsError(ValueError):
    """Rows that a table refuses: all in `faults`, each as ``file:line: what``; the message has the first 50, and `hint`."""

    def __init__(self, table: str, faults: Sequence[str], hint: str = "") -> None:
        super().__init__(faults_message(table, faults) + (f"\n  {hint}" if hint else ""))
        self.faults = tuple(faults)


@dataclass(slots=True)
class RowNotes:
    """What reading tables found out beside their records.

    Attributes:
        where: ``file:line`` of each record, by id; of two tables with one id, that of the table read last.
        files: the files, in the order in which they were read.
        faults: the refused rows, each as ``file:line: what``.
    """

    where: dict[str, str] = field(default_factory=dict)
    files: dict[Path, None] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


_NOTES: ContextVar[RowNotes | None] = ContextVar("notes", default=None)


@contextmanager
def noting_rows() -> Iterator[RowNotes]:
    """Inside, `parse_rows` notes its bad rows and gives the good ones, so that one look at a table finds every fault."""
    notes = RowNotes()
    token = _NOTES.set(notes)
    try:
        yield notes
    finally:
        _NOTES.reset(token)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file.

    Attributes:
        path: the file, as the user named it.
        line: its first line, counted from 1 (parquet: its row, counted from 1).
        values: its fields.
        group: for a JSON object of lists, the key of the list that the row stands in.
        problem: why the row could not be read at all; empty for a good row.
    """

    path: Path
    line: int
    values: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""
    problem: str = ""

    @property
    def where(self) -> str:
        """``file:line``, as editors understand it."""
        return f"{self.path}:{self.line}"

    def text(self, key: str) -> str:
        """The stripped text of `key`; numbers become text. ValueError when it is missing, empty or something else."""
        if key not in self.values:
            raise ValueError(self._missing(key))
        text = self.text_or_none(key)
        if text is None:
            raise ValueError(f"key {key!r} is empty; fill it in or remove the row")
        return text

    def text_or_none(self, key: str) -> str | None:
        """The stripped text of `key`, or None when it is missing, null or empty."""
        value = self.values.get(key)
        if value is None:
            return None
        return as_text(key, value) or None

    def texts(self, key: str) -> tuple[str, ...]:
        """The list of texts under `key`; empty when it is missing or null."""
        value = self.values.get(key)
        if value is None:
            return ()
        if not isinstance(value, list | tuple):
            raise ValueError(f"key {key!r} holds {shorten(value)}; expected a list of texts")
        return tuple(as_text(key, item) for item in value)

    def split(self, key: str) -> Split:
        """The split named by `key` (train, val, valid, validate, test, ...)."""
        return read_split(key, self.text(key))

    def _missing(self, key: str) -> str:
        near = difflib.get_close_matches(key, self.values, n=1, cutoff=0.6)
        hint = f"; did you mean its key {near[0]!r}? Rename it or map it" if near else ""
        return f"key {key!r} is missing (the row has {', '.join(self.values) or 'no keys'}){hint}"


def as_text(key: str, value: Any) -> str:
    """`value` as stripped text: texts and numbers only."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"key {key!r} holds {shorten(value)}, a {type(value).__name__}; expected a text")


def shorten(value: Any) -> str:
    """`repr` of a value, cut so that a message stays readable and does not quote a whole report."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 3] + "..."


def read_split(key: str, name: str) -> Split:
    """`name` as a split; ValueError lists the accepted names."""
    split = SPLITS.get(name.strip().lower())
    if split is None:
        raise ValueError(f"{key!r} is {name!r}; expected one of {', '.join(SPLITS)}")
    return split


def misspelt_key(row: Row, known: Sequence[str]) -> str | None:
    """Says which unknown key of `row` looks like a known one that the row lacks, so that it would silently be ignored."""
    return _misspelt(tuple(row.values), tuple(known))


@functools.lru_cache(maxsize=256)
def _misspelt(keys: tuple[str, ...], known: tuple[str, ...]) -> str | None:
    absent = [key for key in known if key not in keys]
    for key in keys:
        near = [] if key in known else difflib.get_close_matches(key, absent, n=1, cutoff=NEAR_KEY)
        if near:
            return f"unknown key {key!r}; did you mean {near[0]!r}? Rename it, or map it with fields: {{{near[0]}: {key}}}"
    return None


def parse_rows(rows: Iterable[Row], parse: Callable[[Row], Sequence[Record]], table: str) -> list[Record]:
    """Parses every row and returns the records in file order.

    Args:
        rows: the rows of one or more files.
        parse: makes records of a row; its ValueError is the row's fault.
        table: the name of the parser, for the message.

    Raises:
        ValueError: lists every bad row with file and line (the first 50 in full), repeated ids included; or there is no row.
            Inside `noting_rows` bad rows are noted there instead.
    """
    records: list[Record] = []
    faults: list[str] = []
    first_seen: dict[str, str] = {}
    files: dict[Path, None] = {}
    for row in rows:
        files[row.path] = None
        try:
            if row.problem:
                raise ValueError(row.problem)
            for record in parse(row):
                if record.id in first_seen:
                    raise ValueError(f"id {record.id!r} was already used at {first_seen[record.id]}; ids must be unique")
                first_seen[record.id] = row.where
                records.append(record)
        except ValueError as error:
            faults.append(f"{row.where}: {error}")
    notes = _NOTES.get()
    if notes is not None:
        notes.where.update(first_seen)
        notes.files.update(files)
        notes.faults += faults
    elif faults:
        raise BadRowsError(table, faults)
    if not files:
        raise ValueError(f"{table}: there are no rows to read")
    return records


def faults_message(table: str, faults: Sequence[str]) -> str:
    """All faults of a table, one a line, the first 50 in full."""
    shown = [f"  {fault}" for fault in faults[:SHOWN_FAULTS]]
    if len(faults) > SHOWN_FAULTS:
        shown.append(f"  ... and {len(faults) - SHOWN_FAULTS} more")
    return "\n".join([f"{table}: {len(faults)} bad {'row' if len(faults) == 1 else 'rows'}", *shown])
