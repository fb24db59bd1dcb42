"""Reads a finished score table: memory-mapped Arrow, looked up by query and condition."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.artifacts import sha256_file
from medrag_lightning.records import Condition, ImageShown, Score
from medrag_lightning.score_files import MANIFEST, check_identity, condition_digest, read_rows, read_table_manifest

COMMAND = (
    "compute them with: python -m medrag_lightning predict -c DATA -c stages/score --data.init_args.scoring.table {folder} "
    "--model.init_args.init_from READER.ckpt (it computes only what is missing)"
)


class ScoreTable:
    """How likely a frozen reader found each answer, by query and condition. Made by `open`.

    Attributes:
        folder: where it lies.
        manifest: identity, counts, checksum.
        query_ids: the queries that have at least one row, sorted.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], rows: Any) -> None:
        self.folder, self.manifest, self._rows = folder, manifest, rows.combine_chunks()
        query, queries = _codes(self._rows, "query_id")
        self.query_ids: list[str] = queries
        self._number = {name: code for code, name in enumerate(queries)}
        self._starts = np.searchsorted(query, np.arange(len(queries) + 1))
        digests = self._column("condition")
        halves_N2 = np.frombuffer(digests.buffers()[1] or b"", np.uint64).reshape(-1, 2)
        self._digests_N2 = halves_N2[digests.offset : digests.offset + len(digests)]
        self._evidence_starts, evidence = _list(self._column("evidence_ids"))
        self._evidence_codes = evidence.indices.to_numpy()
        self._document = {name: code for code, name in enumerate(evidence.dictionary.to_pylist())}
        self._answer_starts, logp = _list(self._column("logp_nats"))
        self._logp = logp.to_numpy()
        self._counts = _list(self._column("token_counts"))[1].to_numpy()
        self._gold = self._column("gold_index").to_numpy()
        self._index(query)

    @classmethod
    def open(cls, folder: str | Path) -> ScoreTable:
        """Opens the table in `folder`.

        Raises:
            ValueError: if the run that made it did not finish, or if its bytes are not those that were written.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            begun = "is not finished: " if folder.is_dir() and any(folder.iterdir()) else "does not exist: "
            raise ValueError(f"the score table {folder} {begun}{COMMAND.format(folder=folder)}")
        manifest = read_table_manifest(folder)
        told = manifest["file"]
        path = folder / told["name"]
        if not path.is_file() or path.stat().st_size != told["bytes"] or sha256_file(path) != told["sha256"]:
            raise ValueError(f"{path} is damaged: it is not the file that {MANIFEST} names; delete {folder} and score again")
        return cls(folder, manifest, read_rows(path))

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    def check(self, reader: str | None = None, template: str | None = None, corpus: str | None = None) -> None:
        """ValueError that names what differs, if the scores are of another reader, template or corpus (fingerprints)."""
        mine = {name: value for name, value in (("reader", reader), ("template", template), ("corpus", corpus)) if value}
        check_identity(self.folder, mine, self.manifest["identity"])

    def score(self, query_id: str, condition: Condition) -> Score:
        """One row; ValueError if it is missing."""
        row = self._find(query_id, condition)
        if row is None:
            raise self._missing([(query_id, condition)])
        return self._score(row)

    def of_query(self, query_id: str) -> list[Score]:
        """Every row of a query, in no meaningful order; empty for a query that was not scored."""
        number = self._number.get(query_id)
        return [] if number is None else [self._score(row) for row in range(*self._starts[number : number + 2])]

    def require(self, wanted: Iterable[tuple[str, Condition]]) -> None:
        """ValueError unless every (query id, condition) has a row; it says how many are missing in all."""
        missing = [(query_id, condition) for query_id, condition in wanted if self._find(query_id, condition) is None]
        if missing:
            raise self._missing(missing)

    def one_candidate(self, query_id: str, ids: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
        """What the reader says with each of K documents alone: `logp_KC`, `token_count_C` and the gold answer's place.

        Raises:
            ValueError: if one of them was not scored for this query.
        """
        number = self._number.get(query_id, -1)
        keys = np.array([number * len(self._document) + self._document.get(name, -1) for name in ids], np.int64)
        known = np.array([number >= 0 and name in self._document for name in ids], bool)
        at = np.minimum(np.searchsorted(self._alone_keys, keys), max(len(self._alone_keys) - 1, 0))
        known &= self._alone_keys[at] == keys if len(self._alone_keys) else False
        if not known.all():
            raise self._missing([(query_id, Condition((name,))) for name, there in zip(ids, known, strict=True) if not there])
        return self._answers(self._alone_rows[at])

    def without(self, query_id: str) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
        """The same without evidence: `logp_KC` has one row."""
        number = self._number.get(query_id)
        if number is None or self._bare_rows[number] < 0:
            raise self._missing([(query_id, Condition())])
        return self._answers(self._bare_rows[number : number + 1])

    def _index(self, query: NDArray[np.int64]) -> None:
        """Where the rows with the query's own image and at most one document stand, for bulk reads."""
        image, names = _codes(self._rows, "image")
        own = image == (names.index(ImageShown.OWN) if ImageShown.OWN in names else -1)
        shown = np.diff(self._evidence_starts)
        alone = np.flatnonzero(own & (shown == 1))
        keys = query[alone] * len(self._document) + self._evidence_codes[self._evidence_starts[alone]]
        order = np.argsort(keys, kind="stable")
        self._alone_keys, self._alone_rows = keys[order], alone[order]
        self._bare_rows = np.full(len(self.query_ids), -1, np.int64)
        bare = np.flatnonzero(own & (shown == 0))
        self._bare_rows[query[bare]] = bare

    def _answers(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
        if not len(rows):
            raise ValueError(f"{self.folder}: no documents were named")
        starts = self._answer_starts[rows]
        size = int(self._answer_starts[rows[0] + 1] - starts[0])
        places = starts[:, None] + np.arange(size)
        counts = self._counts[places[0]].astype(np.int64)
        return self._logp[places].astype(np.float32), counts, int(self._gold[rows[0]])

    def _find(self, query_id: str, condition: Condition) -> int | None:
        number = self._number.get(query_id)
        if number is None:
            return None
        start, stop = self._starts[number : number + 2]
        digest_2 = np.frombuffer(condition_digest(condition), np.uint64)
        found = np.flatnonzero((self._digests_N2[start:stop] == digest_2).all(axis=1))
        return int(start + found[0]) if len(found) else None

    def _score(self, row: int) -> Score:
        told = self._rows.slice(row, 1).to_pylist()[0]
        image = ImageShown(told["image"])
        condition = Condition(tuple(told["evidence_ids"]), image, told["image_of"], told["corruption"])
        lists: dict[str, Any] = {name: tuple(told[name]) for name in ("answers", "logp_nats", "token_counts")}
        rest = {name: told[name] for name in ("gold_index", "generated", "correct")}
        return Score(told["query_id"], condition, **lists, **rest)

    def _column(self, name: str) -> Any:
        column = self._rows.column(name)
        return column.chunk(0) if column.num_chunks else column.combine_chunks()

    def _missing(self, pairs: Sequence[tuple[str, Condition]]) -> ValueError:
        query_id, condition = pairs[0]
        shown = ", ".join(condition.evidence_ids) or "nothing"
        if condition.image is not ImageShown.OWN:
            shown += f" and image {condition.image!s} {condition.image_of or condition.corruption}".rstrip()
        return ValueError(
            f"the score table {self.folder} has no row for query {query_id!r} shown {shown}; {len(pairs)} rows are missing in "
            f"all. Please {COMMAND.format(folder=self.folder)}"
        )


def _codes(rows: Any, name: str) -> tuple[NDArray[np.int64], list[str]]:
    """A dictionary column as numbers, and what they stand for."""
    column = rows.column(name)
    if not column.num_chunks:
        return np.zeros(0, np.int64), []
    chunk = column.chunk(0)
    return chunk.indices.to_numpy().astype(np.int64), chunk.dictionary.to_pylist()


def _list(column: Any) -> tuple[NDArray[np.int64], Any]:
    """Row i of a list column lies at `starts[i]` to `starts[i + 1]` of its values."""
    return column.offsets.to_numpy().astype(np.int64), column.values
