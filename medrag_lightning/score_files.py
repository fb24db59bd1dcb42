"""The score table on disk: its schema, its shards, and how they become one table. Standard library, numpy and Arrow only.

    identity.json         what the rows depend on: reader, template, corpus, generation, precision; written first
    shards/rRANK-N-X.arrow  rows as they come, whole packs at a time; X is a digest of their content
    scores.arrow          all rows, sorted by query id and condition, without repeats; written at the end of a run
                          (``scores.next.arrow`` where a finished table grew: the old one stays until the new one is whole)
    manifest.json         identity, counts, name, size and sha256 of that file; written last

A row is one `records.Score`. The table names queries and documents by their ids and holds no patient or study ids and no
images; it does hold answers, and the reader's own words where they were asked for.
A folder without `manifest.json` is not a table yet: the run that made it did not finish, and the next one goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from medrag_lightning.artifacts import (
    atomic_write,
    fingerprint,
    free_name,
    read_manifest,
    sha256_file,
    write_bytes,
    write_manifest,
)
from medrag_lightning.disk import refusals_told, sweep
from medrag_lightning.records import Condition, Document, ImageRef, Query, Score

SCHEMA = 1
IDENTITY, MANIFEST, SCORES, SHARDS = "identity.json", "manifest.json", "scores.arrow", "shards"
SAME_NATS = 1e-3
"""Log-probabilities of one (query, condition) that differ by no more are one result, computed twice."""

TEXTS = ("query_id", "query_sha256", "image", "image_of", "corruption")
LISTS = ("evidence_ids", "answers")
ROWS = pa.schema(
    [
        ("query_id", pa.string()),
        ("query_sha256", pa.string()),
        ("condition", pa.binary(16)),
        ("evidence_ids", pa.list_(pa.string())),
        ("image", pa.string()),
        ("image_of", pa.string()),
        ("corruption", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("logp_nats", pa.list_(pa.float64())),
        ("token_counts", pa.list_(pa.int32())),
        ("gold_index", pa.int32()),
        ("generated", pa.string()),
        ("correct", pa.bool_()),
    ]
)

Key = tuple[str, bytes]
"""What a row is found by: the query's id and the digest of the condition."""

NOTE = "names queries and documents by id; no patient or study ids, no images"
REMEDIES = {
    "schema": "the table was written by another version of this project; score into another folder",
    "reader": "give the --model.init_args.init_from (and reader) that made this table",
    "template": "give the template that made this table (--model.init_args.template)",
    "corpus": "give the data.corpus that made this table",
    "generate": "give the --model.init_args.generate that made this table",
    "max_new_tokens": "give the --model.init_args.max_new_tokens that made this table",
    "precision": "give the --trainer.precision that made this table",
}


def condition_digest(condition: Condition) -> bytes:
    """16 bytes that stand for a condition: equal for equal conditions, in this run and in every other."""
    told = [list(condition.evidence_ids), str(condition.image), condition.image_of, condition.corruption]
    return bytes.fromhex(fingerprint(told)[:32])


def query_fingerprint(query: Query) -> str:
    """What a score depends on in a query: its words, history, choices, gold answer, and the name of its image file."""
    told: list[Any] = [query.id, query.question, query.answer, list(query.choices), str(query.answer_type)]
    told += [_place(query.image), *([{"history": [list(turn) for turn in query.history]}] if query.history else [])]
    return fingerprint(told)[:32]


def documents_fingerprint(documents: Sequence[Document]) -> str:
    """What scores depend on in a corpus: ids, texts and the names of image files; the order of documents does not matter."""
    return fingerprint(sorted(fingerprint([d.id, d.text, _place(d.image)]) for d in documents))


def check_identity(folder: Path, mine: Mapping[str, Any], made: Mapping[str, Any] | None = None) -> None:
    """ValueError that names what differs between `mine` and what the rows in `folder` depend on; nothing is touched.

    Args:
        folder: of the table.
        mine: what this run's rows would depend on; names that are absent are not compared.
        made: of the table's manifest; read from ``identity.json`` by default. A folder without rows is accepted.
    """
    if made is None:
        if not (folder / IDENTITY).is_file():
            if row_files(folder):
                raise ValueError(f"{folder} holds scores but no {IDENTITY} that says of what; score into another folder")
            return
        made = read_identity(folder)
    wrong = [name for name in mine if made.get(name) != mine[name]]
    if wrong:
        told = "; ".join(f"{name} {_short(made.get(name))} in the table, {_short(mine[name])} here" for name in wrong)
        remedies = ", ".join(REMEDIES.get(name, name) for name in wrong)
        raise ValueError(
            f"{folder} holds scores of another {' and '.join(wrong)} ({told}). Score into another folder "
            f"(--data.init_args.scoring.table), or {remedies}. Nothing was changed."
        )


def read_identity(folder: Path) -> dict[str, Any]:
    """What the rows in `folder` depend on; ValueError where that is no longer known."""
    remedy = f"nobody knows any more of what the scores in {folder} are; delete that folder and score again"
    return read_manifest(folder / IDENTITY, remedy)


def to_table(scores: Sequence[Score], query_sha256: Mapping[str, str]) -> Any:
    """Rows as an Arrow table (`ROWS`); `query_sha256` gives the `query_fingerprint` of each query."""
    columns: dict[str, list[Any]] = {
        "query_id": [s.query_id for s in scores],
        "query_sha256": [query_sha256[s.query_id] for s in scores],
        "condition": [condition_digest(s.condition) for s in scores],
        "evidence_ids": [s.condition.evidence_ids for s in scores],
        "image": [str(s.condition.image) for s in scores],
        "image_of": [s.condition.image_of for s in scores],
        "corruption": [s.condition.corruption for s in scores],
    }
    for name in ("answers", "logp_nats", "token_counts", "gold_index", "generated", "correct"):
        columns[name] = [getattr(s, name) for s in scores]
    return pa.table(columns, schema=ROWS)


def write_shard(folder: Path, rank: int, number: int, rows: Any) -> Path:
    """Writes some rows as a shard of process `rank`, atomically; no name is ever used for two contents."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, rows.schema) as stream:
        stream.write_table(rows)
    content = sink.getvalue().to_pybytes()
    path = folder / SHARDS / f"r{rank:05d}-{number:05d}-{fingerprint(content)[:8]}.arrow"
    write_bytes(path, content)
    return path


def row_files(folder: Path) -> list[Path]:
    """The files in `folder` that hold rows, finished or not."""
    merged = [folder / name for name in (SCORES, free_name(SCORES, [SCORES])) if (folder / name).is_file()]
    return merged + sorted((folder / SHARDS).glob("*.arrow"))


def rows_there(folder: Path) -> Iterator[tuple[Key, str]]:
    """Key and query fingerprint of every row in `folder`, of finished and of interrupted runs; repeats included."""
    for path in row_files(folder):
        rows = read_rows(path)
        columns = [rows.column(name).to_pylist() for name in ("query_id", "condition", "query_sha256")]
        for query_id, condition, sha256 in zip(*columns, strict=True):
            yield (query_id, condition), sha256


def read_rows(path: Path) -> Any:
    """A file of rows, memory-mapped. ValueError where it is damaged or of another schema."""
    try:
        with pa.memory_map(str(path)) as source:
            rows = pa.ipc.open_file(source).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        remedy = "delete this file and run `predict` again: it computes what is missing"
        raise ValueError(f"{path}: damaged ({error}); {remedy}") from error
    if rows.schema.names != ROWS.names:
        raise ValueError(f"{path}: columns {rows.schema.names}, expected {ROWS.names}; score into another folder")
    return rows


def merge(folder: Path) -> int:
    """Makes one table of everything in `folder`; gives its number of rows. The manifest is written last, then shards go.

    Raises:
        ValueError: if one (query, condition) has two different results; nothing is lost.
    """
    paths = row_files(folder)
    rows = pa.concat_tables([_plain(read_rows(path)) for path in paths]) if paths else ROWS.empty_table()
    keys = pa.table({"query": rows.column("query_id"), "condition": rows.column("condition").cast(pa.binary())})
    order = pc.sort_indices(keys, sort_keys=[("query", "ascending"), ("condition", "ascending")])
    rows = rows.take(order).combine_chunks()
    repeated = _repeats(rows)
    _refuse_conflicts(folder, rows, repeated)
    rows = _encoded(rows.filter(pa.array(~repeated)).combine_chunks())
    name = free_name(SCORES, [table_name(folder)] if (folder / MANIFEST).is_file() else [])
    _write(folder / name, rows)
    write_manifest(folder / MANIFEST, _manifest(folder / name, rows))
    for path in paths:
        if path != folder / name:
            with refusals_told(path):
                path.unlink(missing_ok=True)
    if (folder / SHARDS).is_dir():
        sweep(folder / SHARDS)
        if not any((folder / SHARDS).iterdir()):
            (folder / SHARDS).rmdir()
    return int(rows.num_rows)


def read_table_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished table. ValueError for one of another schema, or that is not what was written."""
    manifest = read_manifest(folder / MANIFEST, f"delete it and run `predict` again: it puts {folder} together anew")
    if manifest.get("schema") != SCHEMA:
        raise ValueError(f"{folder / MANIFEST}: schema {manifest.get('schema')!r}, this version reads {SCHEMA}; score anew")
    return manifest


def table_name(folder: Path) -> str:
    """The name of the file of a finished table."""
    return str(read_table_manifest(folder)["file"]["name"])


def _manifest(path: Path, rows: Any) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "identity": read_identity(path.parent),
        "rows": rows.num_rows,
        "queries": len(rows.column("query_id").chunk(0).dictionary) if rows.num_rows else 0,
        "file": {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)},
        "note": NOTE,
    }


def _write(path: Path, rows: Any) -> None:
    with atomic_write(path) as stream, pa.ipc.new_file(stream, rows.schema) as sink:
        sink.write_table(rows)


def _plain(rows: Any) -> Any:
    """Rows without dictionaries, as shards hold them."""
    return rows.cast(ROWS)


def _encoded(rows: Any) -> Any:
    """Rows with their texts as dictionaries, made anew in row order, so that equal rows give equal bytes."""
    for name in TEXTS:
        column = rows.column(name).combine_chunks()
        rows = rows.set_column(rows.schema.get_field_index(name), name, pc.dictionary_encode(column))
    for name in LISTS:
        column = rows.column(name).combine_chunks()
        lists = pa.ListArray.from_arrays(column.offsets, pc.dictionary_encode(column.values))
        rows = rows.set_column(rows.schema.get_field_index(name), name, lists)
    return rows


def _repeats(rows: Any) -> NDArray[np.bool_]:
    """For sorted rows: whether each has the key of the row before it."""
    repeated = np.zeros(rows.num_rows, bool)
    for name in ("query_id", "condition"):
        column = rows.column(name).combine_chunks().cast(pa.binary() if name == "condition" else pa.string())
        equal = pc.equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
        repeated[1:] = equal if name == "query_id" else repeated[1:] & equal
    return repeated


def _refuse_conflicts(folder: Path, rows: Any, repeated: NDArray[np.bool_]) -> None:
    for place in np.flatnonzero(repeated).tolist():
        one, two = rows.slice(place - 1, 2).to_pylist()
        logps = one.pop("logp_nats"), two.pop("logp_nats")
        near = len(logps[0]) == len(logps[1]) and np.allclose(*logps, rtol=0, atol=SAME_NATS)
        if one != two or not near:
            raise ValueError(
                f"{folder}: query {one['query_id']!r} with evidence {one['evidence_ids']} has two different results "
                f"({logps[0]} and {logps[1]} nats); the runs that wrote them differ. Delete one of the shards in "
                f"{folder / SHARDS} and run `predict` again"
            )


def _place(image: ImageRef | None) -> list[Any] | None:
    """The image's file name, so that data may be moved."""
    return None if image is None else [Path(image.path).name, image.array, image.index]


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text
