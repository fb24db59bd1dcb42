"""Searches on disk: what to ask each corpus for a question, as a query generator or an expert wrote it. Plain Python and Arrow.

    searches.arrow   one row a (question, sample), in the order in which they were written
    manifest.json    what they depend on, counts, size and sha256 of the file; written last
    shards/          while they are being written: tables of the same kind, some questions each

A generator learns from several samples of a question; what a question is searched with is a table of one sample each
(`SearchTable.by_query`). Questions are named by id; what was asked may hold words of theirs, so keep the file where they lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

from medrag_lightning.artifacts import read_manifest, write_bytes, write_manifest
from medrag_lightning.records import Searches, Split

SCHEMA = 1
MANIFEST, ROWS_FILE, SHARDS = "manifest.json", "searches.arrow", "shards"
ROWS = pa.schema(
    [
        ("query_id", pa.string()),
        ("split", pa.string()),
        ("sample", pa.int32()),
        ("corpora", pa.list_(pa.string())),
        ("words", pa.list_(pa.string())),
        ("unread", pa.bool_()),
        ("faults", pa.list_(pa.string())),
    ]
)
NOTE = "names questions by id, and holds words made from them; no patient or study ids, no images"


@dataclass(frozen=True, slots=True)
class SearchRow:
    """What one text asks.

    Attributes:
        query_id, split: the question.
        sample: which of the question's texts, from 0.
        searches: what to ask each corpus; None where the text could not be read, so that every corpus is asked with the
            question itself.
        faults: what was wrong with the text.
    """

    query_id: str
    split: Split
    searches: Searches | None
    sample: int = 0
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SearchTable:
    """The rows in `folder`, and what they depend on, by name (generator, corpora, ...; plain JSON)."""

    folder: Path
    rows: tuple[SearchRow, ...]
    identity: Mapping[str, Any]

    def by_query(self) -> dict[str, SearchRow]:
        """The row of each question by its id.

        Raises:
            ValueError: a question has several samples: a generator learns from such a table, nothing is searched with it.
        """
        found = {row.query_id: row for row in self.rows}
        if len(found) != len(self.rows):
            count = len(self.rows) - len(found)
            raise ValueError(
                f"{self.folder} holds several searches of one question ({count} too many): it is a table to learn from. "
                "Write one to search with: predict with stage query_generator"
            )
        return found


def write_searches(folder: str | Path, rows: Sequence[SearchRow], identity: Mapping[str, Any]) -> None:
    """Writes a table, the manifest last.

    Raises:
        ValueError: a (question, sample) occurs twice, or the folder holds a table of another identity; nothing is touched.
    """
    folder = Path(folder)
    named = [(row.query_id, row.sample) for row in rows]
    if len(set(named)) != len(named):
        raise ValueError(f"searches: {len(named) - len(set(named))} rows repeat a question and sample")
    if searches_are_there(folder) and (told := _manifest(folder)["identity"]) != identity:
        wrong = sorted(name for name in {*told, *identity} if told.get(name) != identity.get(name))
        raise ValueError(f"{folder} holds searches of another {', '.join(wrong)}: write into another folder. Nothing changed")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, ROWS) as stream:
        stream.write_table(pa.Table.from_pylist([_as_row(row) for row in rows], schema=ROWS))
    content: bytes = sink.getvalue().to_pybytes()
    write_bytes(folder / ROWS_FILE, content)
    file = {"name": ROWS_FILE, "bytes": len(content), "sha256": sha256(content).hexdigest()}
    write_manifest(
        folder / MANIFEST, {"schema": SCHEMA, "identity": dict(identity), "rows": len(rows), "file": file, "note": NOTE}
    )


def read_searches(folder: str | Path) -> SearchTable:
    """The table in `folder`; ValueError where there is none, where writing it did not finish, or where its bytes changed."""
    folder = Path(folder)
    manifest = _manifest(folder)
    path = folder / ROWS_FILE
    content = path.read_bytes() if path.is_file() else b""
    if sha256(content).hexdigest() != manifest["file"]["sha256"]:
        raise ValueError(f"{path} is damaged: not what {MANIFEST} names; delete {folder} and write the searches again")
    rows = pa.ipc.open_file(pa.BufferReader(content)).read_all().to_pylist()
    return SearchTable(folder, tuple(_of_row(row) for row in rows), manifest["identity"])


def searches_are_there(folder: str | Path) -> bool:
    """Whether `folder` holds a finished table."""
    return (Path(folder) / MANIFEST).is_file()


def partly_written(folder: str | Path) -> list[SearchRow]:
    """Every row in `folder`, those of finished shards too, the newest last; empty where nothing was written."""
    return [row for one in _tables(Path(folder)) for row in one.rows]


def check_searches(folder: str | Path, identity: Mapping[str, Any]) -> None:
    """ValueError that names what differs, if `folder` or a shard in it depends on something else; nothing is touched."""
    for one in _tables(Path(folder)):
        if wrong := sorted(name for name in {*one.identity, *identity} if one.identity.get(name) != identity.get(name)):
            raise ValueError(
                f"{folder} holds searches of another {', '.join(wrong)}: write into another folder "
                "(--data.init_args.searches.written). Nothing changed"
            )


def _tables(folder: Path) -> list[SearchTable]:
    places = [folder, *sorted((folder / SHARDS).glob("*"))]
    return [read_searches(place) for place in places if searches_are_there(place)]


def _manifest(folder: Path) -> dict[str, Any]:
    if not searches_are_there(folder):
        raise ValueError(f"there are no finished searches in {folder}: write them first (predict with stage query_generator)")
    manifest = read_manifest(folder / MANIFEST, f"delete {folder} and write the searches again")
    if manifest.get("schema") != SCHEMA:
        raise ValueError(f"{folder / MANIFEST}: schema {manifest.get('schema')!r}, this version reads {SCHEMA}; write it again")
    return manifest


def _as_row(row: SearchRow) -> dict[str, Any]:
    told = row.searches or ()
    return {
        "query_id": row.query_id,
        "split": str(row.split),
        "sample": row.sample,
        "corpora": [corpus for corpus, _ in told],
        "words": [words for _, words in told],
        "unread": row.searches is None,
        "faults": list(row.faults),
    }


def _of_row(row: Mapping[str, Any]) -> SearchRow:
    told = None if row["unread"] else tuple(zip(row["corpora"], row["words"], strict=True))
    return SearchRow(row["query_id"], Split(row["split"]), told, row["sample"], tuple(row["faults"]))
