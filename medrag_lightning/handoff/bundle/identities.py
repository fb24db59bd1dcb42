"""Patient, study and document ids as keyed hashes: the leak rule compares them still, and nobody reads them.

This hides, it does not encrypt: the key lies in the bundle (or with its corpus), and whoever has it and a list of possible ids
can find out which of them occur.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medrag_lightning.artifacts import write_bytes
from medrag_lightning.interfaces import CandidateSource, OpenImage
from medrag_lightning.records import Document, Query, Retrieved

_KEYED = re.compile(r"h-[0-9a-f]{24}")
_KEY = re.compile(rb"[0-9a-f]{64}\n")


class Identities:
    """Hashes ids with one key; what is hashed already stays as it is.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self.key = secrets.token_bytes(32) if key is None else key

    @classmethod
    def read(cls, path: Path) -> Identities:
        """Reads the key that `write` has written; ValueError where it is none."""
        if path.is_symlink() or not path.is_file() or path.stat().st_size != 65 or not _KEY.fullmatch(path.read_bytes()):
            raise ValueError(f"{path}: not a key of 64 hexadecimal digits; export the bundle again")
        return cls(bytes.fromhex(path.read_text(encoding="ascii").strip()))

    def write(self, path: Path) -> None:
        """Writes the key."""
        write_bytes(path, self.key.hex().encode() + b"\n")

    def of(self, kind: str, name: str | None) -> str | None:
        """The hash of an id of a kind (``patient``, ``study``, ``record``); None for None."""
        if name is None or _KEYED.fullmatch(name):
            return name
        return "h-" + hmac.new(self.key, f"{kind}\0{name}".encode(), hashlib.sha256).hexdigest()[:24]

    def of_document(self, document: Document) -> Document:
        """A document without its ids. Queries and documents of one id have one hash, which the leak rule compares."""
        return replace(
            document,
            id=str(self.of("record", document.id)),
            patient_id=self.of("patient", document.patient_id),
            study_id=self.of("study", document.study_id),
        )

    def of_query(self, query: Query) -> Query:
        """A query without its ids."""
        return replace(
            query,
            id=str(self.of("record", query.id)),
            patient_id=self.of("patient", query.patient_id),
            study_id=self.of("study", query.study_id),
        )


class HiddenIdentities:
    """A source over documents whose ids are hashed, asked with plain ids; implements `interfaces.CandidateSource`.

    Args:
        source: searches the documents.
        identities: hashed their ids.
    """

    def __init__(self, source: CandidateSource, identities: Identities) -> None:
        self.source, self.identities = source, identities

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Prepares the source."""
        self.source.prepare(documents, open_image, folder)

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Loads the source."""
        self.source.load(documents, open_image, folder)

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        """The candidates of each query, by its hashed ids."""
        found = self.source.retrieve([self.identities.of_query(query) for query in queries])
        return [replace(one, query_id=query.id) for one, query in zip(found, queries, strict=True)]

    def fingerprint(self) -> str:
        """The source's."""
        return self.source.fingerprint()
