"""Traces on disk: how a teacher rearranged the evidence of a question, answered, rethought and answered for good (MIRA).

    traces.arrow     one row a question, in the order in which they were asked
    manifest.json    what they depend on, gold-blind or gold-aware, counts, size and sha256 of the file; written last

A question whose trace failed has a row that says why, and nothing of what was said: a failed call is never learned from.
Questions and evidence are named by id; traces hold words of both, so keep the file where they lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

from medrag_lightning.artifacts import read_manifest, write_bytes, write_manifest
from medrag_lightning.records import Kept, Split, Trace, format_trace

SCHEMA = 1
MANIFEST, ROWS_FILE = "manifest.json", "traces.arrow"
ROWS = pa.schema(
    [
        ("query_id", pa.string()),
        ("split", pa.string()),
        ("evidence_ids", pa.list_(pa.string())),
        ("image_shown", pa.list_(pa.bool_())),
        ("gold_aware", pa.bool_()),
        ("reason", pa.string()),
        ("faults", pa.list_(pa.string())),
        ("kept_numbers", pa.list_(pa.int32())),
        ("kept_texts", pa.list_(pa.string())),
        ("initial", pa.string()),
        ("rethink", pa.string()),
        ("final", pa.string()),
    ]
)
NOTE = "names questions and evidence by id, and holds words of both; no patient or study ids, no images"


@dataclass(frozen=True, slots=True)
class TraceRow:
    """The trace of one question, or why there is none.

    Attributes:
        query_id, split: the question.
        evidence_ids: the documents that were retrieved, in the order of their numbers in the trace, from 1.
        image_shown: of each document, whether its image was shown; False for a document without one.
        trace: None where it failed.
        gold_aware: whether the teacher was told the right answer when it wrote the final one: the trace explains an answer, it
            does not find one.
        reason: why there is no trace; blank where there is one.
        faults: what was wrong with replies that were asked for again, without their words.
    """

    query_id: str
    split: Split
    evidence_ids: tuple[str, ...]
    image_shown: tuple[bool, ...]
    trace: Trace | None
    gold_aware: bool = False
    reason: str = ""
    faults: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.trace is None) is (not self.reason):
            raise ValueError(f"trace of {self.query_id!r}: a row holds either a trace or the reason why there is none")
        if len(self.image_shown) != len(self.evidence_ids):
            told = f"{len(self.evidence_ids)} documents, but {len(self.image_shown)} are said to have shown an image or not"
            raise ValueError(f"trace of {self.query_id!r}: {told}")
        if self.trace is not None:
            format_trace(self.trace)
            if wrong := [one.number for one in self.trace.kept if one.number > len(self.evidence_ids)]:
                raise ValueError(f"trace of {self.query_id!r} keeps evidence {wrong[0]} of {len(self.evidence_ids)}")


@dataclass(frozen=True, slots=True)
class TraceTable:
    """The rows in `folder`, and its manifest: ``identity`` tells what they depend on, by name (teacher, source, ...)."""

    folder: Path
    rows: tuple[TraceRow, ...]
    manifest: Mapping[str, Any]

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the rows depend on, by name, as plain JSON."""
        identity: Mapping[str, Any] = self.manifest["identity"]
        return identity

    def by_query(self) -> dict[str, TraceRow]:
        """The row of each question by its id."""
        return {row.query_id: row for row in self.rows}


def write_traces(folder: str | Path, rows: Sequence[TraceRow], identity: Mapping[str, Any]) -> None:
    """Writes a table, the manifest last.

    Raises:
        ValueError: a question occurs twice, some rows alone are gold-aware, or the folder holds a table of another identity;
            nothing is touched.
    """
    folder = Path(folder)
    if repeated := len(rows) - len({row.query_id for row in rows}):
        raise ValueError(f"traces: {repeated} rows repeat a question")
    if len({row.gold_aware for row in rows}) > 1:
        raise ValueError("traces: some rows are gold-aware and some are not; they are not mixed in one table")
    if traces_are_there(folder) and (wrong := differing(read_traces_manifest(folder)["identity"], identity)):
        raise ValueError(f"{folder} holds traces of another {', '.join(wrong)}: write into another folder. Nothing changed")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, ROWS) as stream:
        stream.write_table(pa.Table.from_pylist([_as_row(row) for row in rows], schema=ROWS))
    content: bytes = sink.getvalue().to_pybytes()
    write_bytes(folder / ROWS_FILE, content)
    write_manifest(
        folder / MANIFEST,
        {
            "schema": SCHEMA,
            "identity": dict(identity),
            "gold_aware": any(row.gold_aware for row in rows),
            "rows": len(rows),
            "traces": sum(row.trace is not None for row in rows),
            "file": {"name": ROWS_FILE, "bytes": len(content), "sha256": sha256(content).hexdigest()},
            "note": NOTE,
        },
    )


def read_traces(folder: str | Path) -> TraceTable:
    """The table in `folder`; ValueError where there is none, where writing it did not finish, or where its bytes changed."""
    folder = Path(folder)
    manifest = read_traces_manifest(folder)
    path = folder / ROWS_FILE
    content = path.read_bytes() if path.is_file() else b""
    if sha256(content).hexdigest() != manifest["file"]["sha256"]:
        raise ValueError(
            f"{path} is damaged: not what {MANIFEST} names; delete both files and write the traces again (verb trace): the "
            "teacher's replies stay"
        )
    rows = pa.ipc.open_file(pa.BufferReader(content)).read_all().to_pylist()
    return TraceTable(folder, tuple(_of_row(row) for row in rows), manifest)


def traces_are_there(folder: str | Path) -> bool:
    """Whether `folder` holds a finished table."""
    return (Path(folder) / MANIFEST).is_file()


def read_traces_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest alone; ValueError where there is none, or it is of another schema."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise ValueError(f"there are no finished traces in {folder}: write them first (verb trace)")
    manifest = read_manifest(path, f"delete {path} and write the traces again (verb trace)")
    if manifest.get("schema") != SCHEMA:
        raise ValueError(f"{path}: schema {manifest.get('schema')!r}, this version reads {SCHEMA}; write the traces again")
    return manifest


def differing(told: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    """The names of what is not the same in two identities."""
    return sorted(name for name in {*told, *identity} if told.get(name) != identity.get(name))


def _as_row(row: TraceRow) -> dict[str, Any]:
    trace = row.trace
    return {
        "query_id": row.query_id,
        "split": str(row.split),
        "evidence_ids": list(row.evidence_ids),
        "image_shown": list(row.image_shown),
        "gold_aware": row.gold_aware,
        "reason": row.reason,
        "faults": list(row.faults),
        "kept_numbers": None if trace is None else [one.number for one in trace.kept],
        "kept_texts": None if trace is None else [one.text for one in trace.kept],
        **{name: None if trace is None else getattr(trace, name) for name in ("initial", "rethink", "final")},
    }


def _of_row(row: Mapping[str, Any]) -> TraceRow:
    trace = None
    if row["kept_numbers"] is not None:
        kept = tuple(Kept(*one) for one in zip(row["kept_numbers"], row["kept_texts"], strict=True))
        trace = Trace(kept, row["initial"], row["rethink"], row["final"])
    return TraceRow(
        row["query_id"],
        Split(row["split"]),
        tuple(row["evidence_ids"]),
        tuple(row["image_shown"]),
        trace,
        row["gold_aware"],
        row["reason"],
        tuple(row["faults"]),
    )
