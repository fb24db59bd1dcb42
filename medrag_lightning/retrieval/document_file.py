"""Documents on disk, for searches whose index does not hold them (an evidence store does).

documents.arrow   the documents in corpus order
documents.json    schema, corpus fingerprint, counts of sources and licences, size and sha256 of the file; written last
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from medrag_lightning.artifacts import atomic_write, read_manifest, sha256_file, write_manifest
from medrag_lightning.records import Document, ImageRef, unique_by_id
from medrag_lightning.retrieval.store import DAMAGE, DOCUMENTS, corpus_fingerprint

SCHEMA = 1
MANIFEST = "documents.json"
ROWS_AT_ONCE = 50_000
_TEXTS = ("id", "text", "patient_id", "study_id", "modality", "source", "license", "origin")
_REMEDY = "write the documents again"


def write_documents(folder: Path, documents: Sequence[Document]) -> dict[str, Any]:
    """Writes documents; gives the part ``corpus`` of the manifest."""
    unique_by_id(documents, "documents")
    schema = pa.schema([(name, pa.string()) for name in (*_TEXTS, "image")])
    with atomic_write(folder / DOCUMENTS) as stream, pa.ipc.new_file(stream, schema) as sink:
        for start in range(0, len(documents), ROWS_AT_ONCE):
            part = documents[start : start + ROWS_AT_ONCE]
            columns = {name: [getattr(document, name) for document in part] for name in _TEXTS}
            columns["image"] = [None if document.image is None else str(document.image) for document in part]
            sink.write_table(pa.table(columns, schema))
    corpus = {
        "fingerprint": corpus_fingerprint(documents),
        "documents": len(documents),
        "sources": _counts(document.source for document in documents),
        "licenses": _counts(document.license for document in documents),
        "modalities": _counts(document.modality or "" for document in documents),
    }
    files = {DOCUMENTS: {"bytes": (folder / DOCUMENTS).stat().st_size, "sha256": sha256_file(folder / DOCUMENTS)}}
    write_manifest(folder / MANIFEST, {"schema": SCHEMA, "corpus": corpus, "files": files})
    return corpus


def has_documents(folder: Path) -> bool:
    """Whether finished documents lie in `folder`."""
    return (folder / MANIFEST).is_file()


def read_documents(folder: Path) -> list[Document]:
    """What `write_documents` wrote; ValueError where it is not there whole."""
    manifest = read_manifest(folder / MANIFEST, _REMEDY)
    if manifest.get("schema") != SCHEMA:
        raise ValueError(f"{folder / MANIFEST}: schema {manifest.get('schema')!r} is not {SCHEMA}; {_REMEDY}")
    try:
        with pa.memory_map(str(folder / DOCUMENTS)) as source:
            rows = pa.ipc.open_file(source).read_all().to_pylist()
        found = [Document(**row | {"image": ImageRef.parse(row["image"]) if row["image"] else None}) for row in rows]
    except (*DAMAGE, TypeError) as error:
        raise ValueError(f"{folder / DOCUMENTS} is damaged ({error}); {_REMEDY}") from error
    if corpus_fingerprint(found) != manifest["corpus"]["fingerprint"]:
        raise ValueError(f"{folder / DOCUMENTS} is damaged: not the documents of its manifest; {_REMEDY}")
    return found


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(value or "not stated" for value in values).items()))
