"""Candidates on disk: a table of what was found, by what and in which corpus; refused for any other."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from medrag_lightning.artifacts import atomic_write, fingerprint, sha256_file
from medrag_lightning.interfaces import CandidateSource, OpenImage
from medrag_lightning.records import Candidate, Channel, Document, Query, Retrieved, shares_identity, unique_by_id
from medrag_lightning.retrieval.store import corpus_fingerprint

SCHEMA = "1"
_KIND = b"medrag candidates"
_TEXTS = pa.field("texts", pa.list_(pa.string()))  # only where a candidate's text is not its document's (a graph's blocks)
_COLUMNS = pa.schema(
    [
        ("query_id", pa.string()),
        ("query_sha256", pa.string()),
        ("document_ids", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float64())),
        ("channels", pa.list_(pa.string())),
    ]
)


def query_fingerprint(query: Query) -> str:
    """sha256 of what a search sees of a query. Of its image's place only the file name counts."""
    image = query.image
    place = None if image is None else [Path(image.path).name, image.array, image.index]
    told: list[Any] = [query.id, query.question, place, query.patient_id, query.study_id]
    told += [] if query.searches is None else [sorted(query.searches)]
    told += [] if query.rewritten is None else [{"rewritten": query.rewritten}]
    told += [] if query.modality is None else [{"modality": query.modality}]  # it may choose the part that is searched
    return fingerprint(told)


def write_candidates(
    path: Path, queries: Sequence[Query], retrieved: Sequence[Retrieved], source: str, documents: Sequence[Document]
) -> None:
    """Writes an Arrow file, one row a query, with the fingerprints of `source` and corpus in its header; atomically."""
    unique_by_id(queries, "queries")
    rows = []
    text_of = {document.id: document.text for document in documents}
    if strangers := [c.id for found in retrieved for c in found.candidates if c.id not in text_of]:
        raise ValueError(
            f"{len(strangers)} candidates, such as {strangers[0]!r}, are no documents of the corpus, and a candidate table "
            "knows no others: what the web tells is kept by a recording (RecordingFetcher); leave Remembered out around it"
        )
    shown = [[_own_text(c, text_of) for c in found.candidates] for found in retrieved]
    for query, found in zip(queries, retrieved, strict=True):
        assert query.id == found.query_id
        rows.append(
            {
                "query_id": query.id,
                "query_sha256": query_fingerprint(query),
                "document_ids": [candidate.id for candidate in found.candidates],
                "scores": [candidate.score for candidate in found.candidates],
                "channels": [str(candidate.channel) for candidate in found.candidates],
            }
        )
    plain = pa.Table.from_pylist(rows, _COLUMNS)
    if any(text is not None for texts in shown for text in texts):
        plain = plain.append_column(_TEXTS, pa.array(shown, _TEXTS.type))
    told = {"kind": _KIND, "schema": SCHEMA, "source": source, "corpus": corpus_fingerprint(documents)}
    table = plain.replace_schema_metadata(told | {"digest": _digest(plain, source.encode())})
    with atomic_write(path) as stream, pa.ipc.new_file(stream, table.schema) as sink:
        sink.write_table(table)


class CachedTable:
    """Candidates from a table that `write_candidates` made; nothing is searched and no encoder is needed.

    Args:
        path: the table.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._by_query: dict[str, tuple[str, Retrieved]] = {}
        self._fingerprint: str | None = None

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Checks that the table is there and was made in this corpus."""
        self._read(documents)

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Reads the table."""
        table, source = self._read(documents)
        by_id = {document.id: document for document in documents}
        for row in table.to_pylist():
            texts = row.get("texts") or [None] * len(row["scores"])
            shown = [
                by_id[name] if text is None else replace(by_id[name], text=text)
                for name, text in zip(row["document_ids"], texts, strict=True)
            ]
            found = zip(shown, row["scores"], row["channels"], strict=True)
            candidates = tuple(Candidate(document, score, Channel(channel)) for document, score, channel in found)
            self._by_query[row["query_id"]] = (row["query_sha256"], Retrieved(row["query_id"], candidates, source))
        self._fingerprint = sha256_file(self.path)

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        """The stored candidates.

        Raises:
            ValueError: a query is not in the table or has changed since, or a candidate breaks the leak rule.
        """
        missing = [query.id for query in queries if query.id not in self._by_query]
        if missing:
            told = f"{len(missing)} of {len(queries)} queries, such as {missing[0]!r}"
            raise ValueError(f"{self.path} lacks {told}; search again")
        found = []
        for query in queries:
            told, retrieved = self._by_query[query.id]
            if told != query_fingerprint(query):
                raise ValueError(f"{self.path}: query {query.id!r} has changed since its candidates were found; search again")
            for candidate in retrieved.candidates:
                if reason := shares_identity(query, candidate.document):
                    raise ValueError(f"{self.path}: candidate {candidate.id!r} shares its {reason} with query {query.id!r}")
            found.append(retrieved)
        return found

    def fingerprint(self) -> str:
        """sha256 of the table; RuntimeError before `load`."""
        if self._fingerprint is None:
            raise RuntimeError("CachedTable has no fingerprint before load()")
        return self._fingerprint

    def _read(self, documents: Sequence[Document]) -> tuple[pa.Table, str]:
        if not self.path.is_file():
            raise ValueError(f"{self.path} is no candidate table: there is no such file")
        try:
            with pa.memory_map(str(self.path)) as source:
                table = pa.ipc.open_file(source).read_all()
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{self.path} is no candidate table, or damaged: {error}; delete it and search again") from error
        told = table.schema.metadata or {}
        if told.get(b"kind") != _KIND or told.get(b"schema") != SCHEMA.encode():
            raise ValueError(f"{self.path} is no candidate table of schema {SCHEMA}")
        if told.get(b"corpus") != corpus_fingerprint(documents).encode():
            raise ValueError(f"{self.path} was made in another corpus; name the corpus it was made in, or search again")
        if b"digest" in told and told[b"digest"] != _digest(table, told.get(b"source", b"")):
            raise ValueError(f"{self.path} is damaged: not what was written; delete it and search again")
        return table, told[b"source"].decode()


def _own_text(candidate: Candidate, text_of: Mapping[str, str]) -> str | None:
    """The text that a candidate shows in the place of its document's; None where it is the same."""
    text = candidate.document.text
    return None if text == text_of.get(candidate.id) else text


def _digest(table: Any, source: bytes) -> bytes:
    """Hex sha256 of the rows and what found them; empty where the rows cannot be read."""
    sink = pa.BufferOutputStream()
    columns = _COLUMNS.append(_TEXTS) if _TEXTS.name in table.column_names else _COLUMNS
    try:
        with pa.ipc.new_stream(sink, columns) as stream:
            stream.write_table(table.cast(columns).combine_chunks())
    except (pa.ArrowException, ValueError):
        return b""
    return hashlib.sha256(source + bytes(sink.getvalue())).hexdigest().encode()


class Remembered:
    """Another source whose candidates are kept in the evidence folder, so that a resumed run does not search again.

    They are found again by the source's fingerprint and what the search sees of the queries (an image by its file name: after
    changing query images under the same names, delete the ``candidates.*.arrow`` files).

    Args:
        source: what searches.
    """

    def __init__(self, source: CandidateSource) -> None:
        self.source = source
        self._place: tuple[Sequence[Document], OpenImage, Path] | None = None

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Prepares the source."""
        self.source.prepare(documents, open_image, folder)

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Loads the source."""
        self.source.load(documents, open_image, folder)
        self._place = (documents, open_image, folder)

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        """The kept candidates, or those that the source finds now."""
        if self._place is None:
            raise RuntimeError("Remembered.retrieve() before load()")
        documents, open_image, folder = self._place
        key = fingerprint(self.fingerprint(), [query_fingerprint(query) for query in queries])
        path = folder / f"candidates.{key[:16]}.arrow"
        if path.is_file():
            table = CachedTable(str(path))
            table.load(documents, open_image, folder)
            return table.retrieve(queries)
        found = self.source.retrieve(queries)
        write_candidates(path, queries, found, self.fingerprint(), documents)
        return found

    def fingerprint(self) -> str:
        """The source's."""
        return self.source.fingerprint()
