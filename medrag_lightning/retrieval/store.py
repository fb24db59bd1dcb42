"""The evidence store: documents and their vectors on disk, refused unless they belong to this encoder and corpus.

    manifest.json     schema, fingerprints, counts, sources, licences, sizes and sha256 of the files; written last
    documents.arrow   the documents in corpus order, and the sha256 of each image's pixels
    image.npy         unit vectors of the documents that have an image, in corpus order
    text.npy          unit vectors of the documents that have a text, in corpus order

A store that is built where another one lies uses other file names (``image.next.npy``), so that the old one stays whole until
the new manifest replaces the old: the manifest's `files` tells the names.

A folder without `manifest.json` is not a store: the build that made it did not finish. `documents.arrow` holds the patient
and study ids that the leak rule compares, so a store of hospital data is patient data.
"""

from __future__ import annotations

import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from medrag_lightning.artifacts import fingerprint, read_manifest, sha256_file
from medrag_lightning.interfaces import Retriever
from medrag_lightning.records import Document, ImageRef

SCHEMA = 1
DAMAGE = (ValueError, KeyError, OSError, SyntaxError, EOFError, tokenize.TokenError, pa.ArrowException)
METRIC = "inner product of unit vectors"
MANIFEST, DOCUMENTS = "manifest.json", "documents.arrow"
Side = Literal["image", "text"]
SIDES: tuple[Side, ...] = ("image", "text")
VectorType = Literal["float32", "float16"]
Vectors = NDArray[np.floating[Any]]


def document_fingerprint(document: Document) -> str:
    """sha256 over what a document says. Of its image's place only the file name counts, so that data may be moved."""
    image = document.image
    place = None if image is None else [Path(image.path).name, image.array, image.index]
    texts = [document.id, document.text, document.modality, document.source, document.license]
    origin = [{"origin": document.origin}] if document.origin else []
    return fingerprint([*texts, document.patient_id, document.study_id, place, *origin])


def corpus_fingerprint(documents: Sequence[Document]) -> str:
    """sha256 over all documents and their order."""
    return fingerprint([document_fingerprint(document) for document in documents])


def store_fingerprint(encoder: str, corpus: str, dtype: str) -> str:
    """sha256 of the encoder's and the corpus's fingerprints, the vectors' type and the metric."""
    return fingerprint(SCHEMA, encoder, corpus, dtype, METRIC)


def rows_with(documents: Sequence[Document], side: Side) -> NDArray[np.int64]:
    """Numbers of the documents that have an image, or a text that is not blank: the rows of that side's vectors."""
    present = [d.image is not None if side == "image" else bool(d.text.strip()) for d in documents]
    return np.flatnonzero(np.array(present, bool)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class EvidenceStore:
    """An open store. `vectors[side]` (memory-mapped) has one row for each entry of `rows[side]`, a document's number."""

    folder: Path
    manifest: dict[str, Any]
    vectors: dict[Side, Vectors]
    rows: dict[Side, NDArray[np.int64]]
    image_sha256: tuple[str | None, ...]

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Whether a finished store lies in `folder`."""
        return (folder / MANIFEST).is_file()

    @classmethod
    def open(cls, folder: Path) -> EvidenceStore:
        """Maps a finished store; ValueError where it is unfinished, of another schema, or a file has another size."""
        if not cls.exists(folder):
            raise ValueError(f"{folder} holds no finished evidence store (no {MANIFEST}); build it again")
        manifest = read_manifest(folder / MANIFEST, _remedy(folder))
        if manifest.get("schema") != SCHEMA:
            raise ValueError(f"{folder}: schema {manifest.get('schema')!r} of the store is not {SCHEMA}; {_remedy(folder)}")
        for name, told in manifest["files"].items():
            size = (folder / name).stat().st_size if (folder / name).is_file() else None
            if size != told["bytes"]:
                raise ValueError(f"{folder / name} has {size} bytes, its manifest says {told['bytes']}; {_remedy(folder)}")
        try:
            table = _read_table(folder / name_of(manifest, DOCUMENTS))
            vectors: dict[Side, Vectors] = {
                side: np.load(folder / name_of(manifest, f"{side}.npy"), mmap_mode="r") for side in SIDES
            }
            rows = {side: np.flatnonzero(table[f"has_{side}"].to_numpy()).astype(np.int64) for side in SIDES}
            image_sha256 = tuple(table["image_sha256"].to_pylist())
        except DAMAGE as error:
            raise ValueError(f"the evidence store {folder} is damaged ({error}); {_remedy(folder)}") from error
        if any(len(vectors[side]) != len(rows[side]) for side in SIDES):
            raise ValueError(f"the evidence store {folder} is damaged (vectors and documents differ); {_remedy(folder)}")
        return cls(folder, manifest, vectors, rows, image_sha256)

    @property
    def fingerprint(self) -> str:
        """What candidates found in this store depend on."""
        return str(self.manifest["fingerprint"])

    def documents(self) -> list[Document]:
        """The documents, in corpus order, with their images where they were when the store was built."""
        columns = ("id", "text", "patient_id", "study_id", "modality", "source", "license", "image")
        try:
            table = _read_table(self.folder / name_of(self.manifest, DOCUMENTS))
            rows = table.select([*columns, *({"origin"} & set(table.column_names))]).to_pylist()  # older stores tell no origin
        except DAMAGE as error:
            raise ValueError(f"the evidence store {self.folder} is damaged ({error}); {_remedy(self.folder)}") from error
        return [Document(**row | {"image": ImageRef.parse(row["image"]) if row["image"] else None}) for row in rows]

    def check(self, encoder: Retriever, documents: Sequence[Document], dtype: VectorType) -> None:
        """ValueError that names what differs and the remedy, unless the store is what these three would give."""
        corpus = corpus_fingerprint(documents)
        if self.fingerprint == store_fingerprint(encoder.fingerprint(), corpus, dtype):
            return
        reasons = []
        if self.manifest["encoder"]["fingerprint"] != encoder.fingerprint():
            before, now = self.manifest["encoder"]["parts"], encoder.describe()
            parts = [f"{k} {before.get(k, '-')[:40]} -> {now.get(k, '-')[:40]}" for k in now if before.get(k) != now[k]]
            reasons.append("another encoder (" + "; ".join(parts) + ")")
        if self.manifest["corpus"]["fingerprint"] != corpus:
            reasons.append("another corpus (" + _corpus_difference(self.documents(), documents) + ")")
        if self.manifest["embeddings"]["dtype"] != dtype:
            reasons.append(f"vectors of type {self.manifest['embeddings']['dtype']}, not {dtype}")
        told = ", and with ".join(reasons)
        raise ValueError(f"the evidence store {self.folder} was built with {told}; {_remedy(self.folder)}")

    def verify(self) -> None:
        """Reads every file whole; ValueError that names the first damaged or missing one."""
        for name, told in self.manifest["files"].items():
            if not (self.folder / name).is_file() or sha256_file(self.folder / name) != told["sha256"]:
                raise ValueError(f"{self.folder / name} is damaged: its sha256 is not the manifest's; {_remedy(self.folder)}")


def name_of(manifest: Mapping[str, Any], name: str) -> str:
    """What the file `name` is called in a finished store: otherwise where a store was built in the place of another."""
    return next(str(there) for there in manifest["files"] if there.partition(".")[0] == name.partition(".")[0])


def _read_table(path: Path) -> Any:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def _corpus_difference(stored: Sequence[Document], given: Sequence[Document]) -> str:
    """In words and with one example each, what documents were added, removed or changed."""
    old = {document.id: document_fingerprint(document) for document in stored}
    new = {document.id: document_fingerprint(document) for document in given}
    found = {
        "added": [name for name in new if name not in old],
        "removed": [name for name in old if name not in new],
        "changed": [name for name in new if name in old and new[name] != old[name]],
    }
    parts = [f"{len(names)} {what}, such as {names[0]!r}" for what, names in found.items() if names]
    return "; ".join(parts) or "the same documents in another order"


def _remedy(folder: Path) -> str:
    return f"delete {folder} to have it built again, or choose another folder"
