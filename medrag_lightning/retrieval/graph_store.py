"""A graph on disk: one SQLite file of terms, names, definitions and one-hop relations, searched by full text (FTS5).

    graph.sqlite   terms, names (with their stems), definitions, relations, indexes of words and of letters
    graph.json     schema, corpus fingerprint, counts, size and sha256 of the file; written last

Values reach SQL as parameters, never as text of a statement. The file is opened read-only and as one that never changes.
"""

from __future__ import annotations

import errno
import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from medrag_lightning.artifacts import fingerprint, read_manifest, sha256_file, write_manifest
from medrag_lightning.disk import Unfinished, refusals_told
from medrag_lightning.records import Document, unique_by_id
from medrag_lightning.records.terms import Relation, Term, read_term
from medrag_lightning.retrieval.stemming import TOKENIZER, Stems
from medrag_lightning.retrieval.store import corpus_fingerprint

SCHEMA = 1
FILE, MANIFEST = "graph.sqlite", "graph.json"
BATCH, MARKS = 4096, 500
_REFUSALS = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_IOERR: errno.EIO, sqlite3.SQLITE_READONLY: errno.EACCES}
_TABLES = f"""
CREATE TABLE term(row INTEGER PRIMARY KEY, id TEXT NOT NULL) STRICT;
CREATE TABLE name(row INTEGER PRIMARY KEY, term INTEGER NOT NULL, text TEXT NOT NULL, folded TEXT NOT NULL, stems TEXT NOT NULL,
    preferred INTEGER NOT NULL) STRICT;
CREATE TABLE definition(term INTEGER NOT NULL, place INTEGER NOT NULL, vocabulary TEXT NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY (term, place)) STRICT, WITHOUT ROWID;
CREATE TABLE relation(term INTEGER NOT NULL, place INTEGER NOT NULL, subject TEXT NOT NULL, relation TEXT NOT NULL,
    object TEXT NOT NULL, PRIMARY KEY (term, place)) STRICT, WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5(text, content='', tokenize='{TOKENIZER}');
CREATE VIRTUAL TABLE letters USING fts5(text, content='', tokenize='trigram');
"""
_INDEXES = "CREATE INDEX name_folded ON name(folded); CREATE INDEX name_stems ON name(stems);"


def build_graph(folder: Path, documents: Sequence[Document]) -> None:
    """Writes the graph of `documents`, whose texts are terms (`records.terms`); an interrupted build leaves none.

    Raises:
        ValueError: a document is no term, or there is none.
        DiskError: the disk refuses.
    """
    unique_by_id(documents, "graph")
    if not documents:
        raise ValueError("the graph is empty: no document of data.corpus belongs to it; add an Ontology table to the corpus")
    path = folder / FILE
    new = Unfinished(path)
    try:
        with refusals_told(path):
            counts = _fill(new.temporary, documents)
            new.finish()
            told = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            manifest = {"schema": SCHEMA, "corpus": corpus_fingerprint(documents), "counts": counts, "files": {FILE: told}}
            write_manifest(folder / MANIFEST, manifest)
    finally:
        new.discard()
        new.close()


def graph_exists(folder: Path) -> bool:
    """Whether a finished graph lies in `folder`."""
    return (folder / MANIFEST).is_file()


def check_graph(folder: Path, documents: Sequence[Document], whole: bool) -> dict[str, Any]:
    """The manifest of the graph in `folder`.

    Args:
        folder: where it lies.
        documents: what it must have been made of.
        whole: whether its every byte is looked at, or only its size.

    Raises:
        ValueError: there is no finished graph, or it is damaged, of another schema or of another corpus; with the remedy.
    """
    remedy = f"delete {folder / MANIFEST} to have it built again"
    if not graph_exists(folder):
        raise ValueError(f"{folder} holds no finished graph (no {MANIFEST}); build it again")
    manifest = read_manifest(folder / MANIFEST, remedy)
    if manifest.get("schema") != SCHEMA:
        raise ValueError(f"{folder / MANIFEST}: schema {manifest.get('schema')!r} of the graph is not {SCHEMA}; {remedy}")
    path, told = folder / FILE, manifest["files"][FILE]
    if not path.is_file() or path.stat().st_size != told["bytes"] or (whole and sha256_file(path) != told["sha256"]):
        raise ValueError(f"{path} is damaged: it is not what its manifest says; {remedy}")
    if manifest["corpus"] != corpus_fingerprint(documents):
        raise ValueError(f"the graph {path} was made of another corpus; {remedy}, or choose another folder")
    return manifest


class GraphStore:
    """An open graph. Rows are numbers of documents; names come preferred ones first, then in corpus order.

    Args:
        folder: where `build_graph` wrote it; `check_graph` has been asked.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        address = f"file:{quote(str(self.path.resolve()))}?mode=ro&immutable=1"
        try:
            self._db = sqlite3.connect(address, uri=True)
            self._db.execute("PRAGMA query_only = ON")
            self._db.execute("PRAGMA trusted_schema = OFF")
            self._db.execute("SELECT count(*) FROM term").fetchone()
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{self.path} is no readable graph ({error}); delete {folder / MANIFEST} to have it built again"
            ) from error

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def term(self, row: int) -> Term:
        """The whole term of a document."""
        (name,) = self._db.execute("SELECT id FROM term WHERE row = ?", (row,)).fetchone()
        names = self._db.execute("SELECT text FROM name WHERE term = ? ORDER BY row", (row,))
        return Term(name, tuple(text for (text,) in names), self.definitions(row), self.relations(row))

    def definitions(self, row: int) -> tuple[tuple[str, str], ...]:
        """(vocabulary, text) of each definition of a term, in file order."""
        return tuple(self._db.execute("SELECT vocabulary, text FROM definition WHERE term = ? ORDER BY place", (row,)))

    def relations(self, row: int) -> tuple[Relation, ...]:
        """The one-hop relations of a term, each once, in file order."""
        found = self._db.execute("SELECT subject, relation, object FROM relation WHERE term = ? ORDER BY place", (row,))
        return tuple(found)

    def exact(self, text: str) -> list[int]:
        """Terms that are called `text`, in any case."""
        found = self._db.execute("SELECT term FROM name WHERE folded = ? ORDER BY preferred DESC, row", (_folded(text),))
        return list(dict.fromkeys(row for (row,) in found))

    def called(self, stems: Sequence[str]) -> dict[str, list[tuple[int, str]]]:
        """For each text of stems (with blanks between them) the (term, name) pairs whose name has exactly these."""
        found: dict[str, list[tuple[int, str]]] = {}
        for start in range(0, len(stems), MARKS):
            part = stems[start : start + MARKS]
            marks = ",".join("?" * len(part))
            asked = f"SELECT stems, term, text FROM name WHERE stems IN ({marks}) ORDER BY preferred DESC, row"
            for told, row, text in self._db.execute(asked, tuple(part)):
                found.setdefault(told, []).append((row, text))
        return found

    def by_words(self, stems: Sequence[str], every: bool, limit: int) -> list[tuple[int, str, str]]:
        """(term, name, its stems) of names with all, or any, of these stems, best BM25 rank first."""
        return self._match("words", stems, " AND " if every else " OR ", limit)

    def by_letters(self, text: str, limit: int) -> list[tuple[int, str, str]]:
        """(term, name, its stems) of names that share runs of three letters with `text`, best BM25 rank first."""
        folded = _folded(text)
        runs = list(dict.fromkeys(folded[at : at + 3] for at in range(len(folded) - 2)))
        return self._match("letters", runs, " OR ", limit)

    def _match(self, table: str, words: Sequence[str], between: str, limit: int) -> list[tuple[int, str, str]]:
        if not words:
            return []
        quoted = between.join('"' + word.replace('"', '""') + '"' for word in words)  # a string of FTS5's own syntax
        asked = (
            f"SELECT name.term, name.text, name.stems FROM {table} JOIN name ON name.row = {table}.rowid WHERE {table} MATCH ? "
            f"ORDER BY {table}.rank, length(name.text), name.preferred DESC, name.row LIMIT ?"
        )
        return list(self._db.execute(asked, (quoted, limit)))


def _fill(path: Path, documents: Sequence[Document]) -> dict[str, int]:
    """Writes everything in batches; gives the number of terms, names, definitions and relations."""
    database = sqlite3.connect(path, isolation_level=None)
    try:
        database.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_TABLES}")
        stems, names, counts = Stems(), itertools.count(), dict.fromkeys(("term", "name", "definition", "relation"), 0)
        for start in range(0, len(documents), BATCH):
            database.execute("BEGIN")
            rows = _rows(start, documents[start : start + BATCH], stems, names)
            for table, found in rows.items():
                if found:
                    database.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(found[0]))})", found)
                counts[table] += len(found)
            for table in ("words", "letters"):
                texts = [(row, text if table == "words" else folded) for row, _, text, folded, *_ in rows["name"]]
                database.executemany(f"INSERT INTO {table}(rowid, text) VALUES (?, ?)", texts)
            database.execute("COMMIT")
        database.executescript(
            f"{_INDEXES} INSERT INTO words(words) VALUES ('optimize'); INSERT INTO letters(letters) VALUES ('optimize');"
        )
        return counts
    except sqlite3.OperationalError as error:
        number = _REFUSALS.get(error.sqlite_errorcode & 0xFF)
        if number is None:
            raise
        raise OSError(number, str(error), str(path)) from error
    finally:
        database.close()


def _rows(start: int, documents: Sequence[Document], stems: Stems, names: Iterator[int]) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of each table for some documents, the first of which has the number `start`."""
    terms = []
    for document in documents:
        term = read_term(document.id, document.text)
        if term is None:
            raise ValueError(
                f"document {document.id!r} of {document.source!r} is no term of a graph (its text does not begin with "
                "'Term: '); the tables of a graph are Ontology tables: set corpus to the name of the graph's own table"
            )
        terms.append(term)
    rows: dict[str, list[tuple[Any, ...]]] = {"term": [], "name": [], "definition": [], "relation": []}
    called = [(row, text, at == 0) for row, term in enumerate(terms, start) for at, text in enumerate(term.names)]
    stemmed = stems.of([text for _, text, _ in called])
    for (row, text, preferred), words in zip(called, stemmed, strict=True):
        rows["name"].append((next(names), row, text, _folded(text), " ".join(words), int(preferred)))
    for row, term in enumerate(terms, start):
        rows["term"].append((row, term.id))
        rows["definition"] += [(row, place, *told) for place, told in enumerate(term.definitions)]
        rows["relation"] += [(row, place, *told) for place, told in enumerate(term.relations)]
    return rows


def _folded(text: str) -> str:
    """A name as it is looked up: in no case, with single blanks; of something endless the beginning."""
    sound = text[:4096].replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
    return " ".join(sound.casefold().split())


def graph_fingerprint(corpus: str) -> str:
    """sha256 of what a graph is: its schema, how words are cut, and its corpus."""
    return fingerprint("graph", SCHEMA, TOKENIZER, corpus)
