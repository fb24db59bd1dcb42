"""Tables of a configuration, read so that one look finds every fault: refused rows are noted, and reading goes on."""

from __future__ import annotations

import csv
import logging
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from medrag_lightning.data.audit.findings import Finding
from medrag_lightning.data.audit.row_kinds import row_finding, without_values
from medrag_lightning.data.rows import BadRowsError, RowNotes, noting_rows
from medrag_lightning.records import Document, ImageRef, Query

if TYPE_CHECKING:
    from medrag_lightning.interfaces import Table

Role = Literal["tables", "corpus", "pair_tables", "own_reports"]
TROUBLE = (
    *(ValueError, OSError, EOFError, KeyError, TypeError, AttributeError, IndexError),
    *(zlib.error, zipfile.BadZipFile, csv.Error),
)
"""What a parser, ours or another, raises on a file that is not what it expects."""
Record = TypeVar("Record", Query, Document)


@dataclass(frozen=True, slots=True)
class NamedTable:
    """A table and its place in the configuration.

    Attributes:
        table: the parser.
        where: the place that findings about the whole table name, such as ``my.yaml:7``.
        roles: what it is used for.
        files: files that its settings name.
    """

    table: Table
    where: str
    roles: frozenset[Role]
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Placed:
    """A record, and ``file:line`` of its row, or what says most about its place where there is no line."""

    where: str
    record: Query | Document

    @property
    def id(self) -> str:
        """The record's."""
        return self.record.id

    @property
    def image(self) -> ImageRef | None:
        """The record's."""
        return self.record.image


@dataclass(slots=True)
class TableRead:
    """What one table gave.

    Attributes:
        roles: what it is used for.
        queries, documents: its good rows, each with its place; those that its roles ask for.
        roots: the folders that its images lie under.
        files: the files of rows that it read.
        findings: about refused rows and unreadable files.
        failed: whether it could not be read at all, so that what is missing says nothing.
    """

    roles: frozenset[Role]
    queries: list[Placed] = field(default_factory=list)
    documents: list[Placed] = field(default_factory=list)
    roots: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    failed: bool = False


def read_table(named: NamedTable) -> TableRead:
    """Reads one table for all its roles."""
    read = TableRead(named.roles)
    with noting_rows() as notes, _listening() as said:
        if "tables" in named.roles:
            read.queries = _placed(_tried(named.table.queries, named, read), notes)
        if named.roles - {"tables"}:
            read.documents = _placed(_tried(named.table.documents, named, read), notes)
        read.roots = _tried_roots(named, read)
    what_to_do = "nothing, if that is meant; the docstring of the parser says why"
    read.findings += [Finding("parser_says", "note", named.where, what, what_to_do) for what in dict.fromkeys(said)]
    refused = list(dict.fromkeys(notes.faults))
    read.findings = [*(row_finding(fault) for fault in refused), *_beside(read.findings, bool(refused))]
    read.files = list(dict.fromkeys([*notes.files, *named.files]))
    return read


def read_tables(named: Sequence[NamedTable]) -> list[TableRead]:
    """Reads every table, whatever is wrong with the others."""
    return [read_table(one) for one in named]


@contextmanager
def _listening() -> Iterator[list[str]]:
    """What parsers say in the log, from warnings up; without the ids that they list."""
    said: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(re.sub(r"(kept as open questions|in the report): .*", r"\1", record.getMessage(), flags=re.DOTALL))

    logger, ear = logging.getLogger("medrag_lightning.data.tables"), Ear(logging.WARNING)
    passed_on = logger.propagate
    logger.addHandler(ear)
    logger.propagate = False
    try:
        yield said
    finally:
        logger.removeHandler(ear)
        logger.propagate = passed_on


def _tried(read: Callable[[], Sequence[Record]], named: NamedTable, into: TableRead) -> Sequence[Record]:
    """What `read` gives; nothing, and a finding, where it cannot."""
    try:
        return read()
    except BadRowsError as error:
        into.findings += [row_finding(fault) for fault in error.faults]
    except TROUBLE as error:
        into.findings.append(_unreadable(named, error))
    into.failed = True
    return []


def _tried_roots(named: NamedTable, into: TableRead) -> list[Path]:
    try:
        return named.table.roots()
    except TROUBLE as error:
        into.findings.append(_unreadable(named, error))
        return []


def _unreadable(named: NamedTable, error: Exception) -> Finding:
    table = type(named.table).__name__
    told = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
    if "no such file" in told.lower() or isinstance(error, FileNotFoundError):
        remedy = "correct the path in the config, or put the file there (is MEDRAG_DATA the right folder?)"
        return Finding("table_missing", "error", named.where, f"{table}: {told}", remedy)
    if "there are no rows" in told or "no text mentions" in told:
        return Finding("table_empty", "error", named.where, told, "name another file, or take the table out")
    remedy = "look at the file; download or export it again, or name another parser for it"
    return Finding("table_unreadable", "error", named.where, f"{table}: {_keeping_files(told, named)}", remedy)


def _keeping_files(told: str, named: NamedTable) -> str:
    """A message without values of rows; the files that the config itself names stay."""
    for path in named.files:
        if told.startswith(f"{path}: "):
            return f"{path}: {without_values(told.removeprefix(f'{path}: '))}"
    return without_values(told)


def _beside(findings: Sequence[Finding], rows_refused: bool) -> list[Finding]:
    """Findings without repeats; a table that has lost rows does not fit its array file for that reason alone."""
    distinct = list(dict.fromkeys(findings))
    return [one for one in distinct if not (rows_refused and ".npz" in one.where)]


def _placed(records: Sequence[Record], notes: RowNotes) -> list[Placed]:
    where = notes.where
    return [Placed(where.get(record.id) or _place(record), record) for record in records]


def _place(record: Query | Document) -> str:
    """Where a record without a line comes from: an item of an array, or the name of its data set."""
    if record.image is not None and record.image.array is not None:
        return f"{Path(record.image.path).name}#{record.image.array}/{record.image.index}"
    return record.source or type(record).__name__
