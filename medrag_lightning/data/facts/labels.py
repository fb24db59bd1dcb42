"""Facts that a file tells of each document: labels such as IU X-Ray's MeSH terms, or a collection's findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medrag_lightning.artifacts import fingerprint, sha256_file
from medrag_lightning.data.row_files import read_rows
from medrag_lightning.data.rows import Row, parse_rows, shorten
from medrag_lightning.records import Document


@dataclass(frozen=True, slots=True)
class _Labelled:
    id: str
    labels: frozenset[str]


class LabelFacts:
    """A fact is a label of the document's row in a file (JSONL, JSON, CSV, TSV or parquet); documents without a row have none.

    Args:
        path: the file.
        id_key: the key or column that holds the document's id.
        label_keys: the keys that hold labels: a text, a list of texts, or a number, of which 0, -1 and nothing state nothing
            and any other states the key's own name.
        separator: between the labels of one text.
        leave_out: labels that state nothing, in any case, such as ``todo``.
    """

    def __init__(
        self,
        path: str,
        label_keys: list[str],
        id_key: str = "id",
        separator: str = ";",
        leave_out: list[str] | None = None,
    ) -> None:
        if not label_keys or not separator:
            raise ValueError(f"facts: name at least one of label_keys, and a separator; got {label_keys} and {separator!r}")
        self.path, self.label_keys, self.id_key, self.separator = Path(path), list(label_keys), id_key, separator
        self.leave_out = {label.casefold() for label in leave_out or ()}
        self._labels: dict[str, frozenset[str]] | None = None

    def facts(self, documents: Sequence[Document]) -> list[frozenset[str]]:
        """The labels of each document; ValueError if the file knows none of them, or lists its bad rows."""
        if self._labels is None:
            told = parse_rows(read_rows(self.path), self._parse, type(self).__name__)  # type: ignore[type-var]
            self._labels = {labelled.id: labelled.labels for labelled in told}
        if documents and not any(document.id in self._labels for document in documents):
            some, theirs = documents[0].id, next(iter(self._labels), "nothing")
            raise ValueError(f"{self.path}: no row has the id of a document (such as {some!r}; the file's first is {theirs!r})")
        return [self._labels.get(document.id, frozenset()) for document in documents]

    def fingerprint(self) -> str:
        """sha256 over the file and the settings."""
        told = [self.id_key, self.label_keys, self.separator, sorted(self.leave_out)]
        return fingerprint("label facts", sha256_file(self.path), told)

    def _parse(self, row: Row) -> list[_Labelled]:
        labels = [label for key in self.label_keys for label in self._listed(key, row.values.get(key))]
        told = (" ".join(label.casefold().split()) for label in labels)
        kept = frozenset(label for label in told if label and label not in self.leave_out)
        return [_Labelled(row.text(self.id_key), kept)]

    def _listed(self, key: str, value: object) -> list[str]:
        if value is None or isinstance(value, bool | int | float):
            return [key] if value not in (None, 0, -1) and value == value else []
        if isinstance(value, str):
            number = value.strip()
            if number.lstrip("+-").replace(".", "", 1).isdigit():  # a CSV column of zeros and ones
                return [key] if float(number) not in (0, -1) else []
            return number.split(self.separator)
        if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
            return list(value)
        raise ValueError(f"key {key!r} holds {shorten(value)}; expected a text, a list of texts or a number")
