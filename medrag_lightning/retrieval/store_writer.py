"""Builds an evidence store from vectors that come in any order, so that a crash never leaves half of one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from medrag_lightning.artifacts import atomic_write, fingerprint, free_name, read_manifest, sha256_file, write_manifest
from medrag_lightning.batches import Embedded
from medrag_lightning.disk import Unfinished, refusals_told
from medrag_lightning.records import Document, unique_by_id
from medrag_lightning.retrieval.store import (
    DOCUMENTS,
    MANIFEST,
    METRIC,
    SCHEMA,
    SIDES,
    EvidenceStore,
    Side,
    VectorType,
    corpus_fingerprint,
    rows_with,
    store_fingerprint,
)

ROWS_AT_ONCE = 50_000
PATIENT_NOTE = "documents.arrow holds patient and study ids, which the leak rule compares: treat it as patient data"


class StoreWriter:
    """Collects the vectors of all documents, in any order, then finishes the store in one step.

    Args:
        folder: where the store will lie.
        documents: the corpus.
        encoder_fingerprint, encoder_parts: of the retriever that makes the vectors.
        dim: width D of the vectors.
        dtype: in which they are stored.
    """

    def __init__(
        self,
        folder: Path,
        documents: Sequence[Document],
        encoder_fingerprint: str,
        encoder_parts: dict[str, str],
        dim: int,
        dtype: VectorType = "float32",
    ) -> None:
        unique_by_id(documents, "evidence corpus")
        if not documents:
            raise ValueError("the evidence corpus is empty: name at least one table with documents, or no source of evidence")
        self.folder, self.documents = folder, documents
        self.encoder = {"fingerprint": encoder_fingerprint, "parts": encoder_parts}
        self.dim, self.dtype = dim, dtype
        self._rows = {side: rows_with(documents, side) for side in SIDES}
        self._place = {side: {int(row): at for at, row in enumerate(self._rows[side])} for side in SIDES}
        self._seen = {side: np.zeros(len(self._rows[side]), bool) for side in SIDES}
        self._image_sha256: list[str | None] = [None] * len(documents)
        self._old = _files_of(folder)
        self._names = {name: free_name(name, self._old) for name in (DOCUMENTS, *(f"{side}.npy" for side in SIDES))}
        self._new: dict[Side, Unfinished] = {}
        self._maps: dict[Side, np.memmap[Any, Any]] = {}
        try:
            for side in SIDES:
                self._new[side] = Unfinished(folder / self._names[f"{side}.npy"])
                self._maps[side] = _map(self._new[side], np.dtype(dtype), (len(self._rows[side]), dim))
        except BaseException:
            self.discard()
            raise

    def add(self, embedded: Embedded) -> None:
        """Takes vectors; ValueError for a document that is not in the corpus, comes twice or has another text."""
        self._put("image", embedded.image_index, embedded.image_ND)
        self._put("text", embedded.text_index, embedded.text_ND)
        for index, pixels in zip(embedded.image_index, embedded.image_sha256, strict=True):
            self._image_sha256[index] = pixels
        for index, words in zip(embedded.text_index, embedded.text_sha256, strict=True):
            if words != fingerprint(self.documents[index].text):
                raise ValueError(f"vectors of another corpus: document {self.documents[index].id!r} had another text")

    def finish(self) -> EvidenceStore:
        """Writes documents and vectors, the manifest last. ValueError if a document has not been embedded."""
        for side in SIDES:
            if not self._seen[side].all():
                missing = self._rows[side][~self._seen[side]]
                first = self.documents[int(missing[0])].id
                raise ValueError(f"{len(missing)} documents have no {side} vector yet, the first is {first!r}")
        with atomic_write(self.folder / self._names[DOCUMENTS]) as stream:
            sink = None
            for start in range(0, len(self.documents), ROWS_AT_ONCE):
                table = self._table(start, min(start + ROWS_AT_ONCE, len(self.documents)))
                sink = sink or pa.ipc.new_file(stream, table.schema)
                sink.write_table(table)
            assert sink is not None, "an empty corpus was refused"
            sink.close()
        for side in SIDES:
            with refusals_told(self._new[side].path):
                self._maps[side].flush()
                self._new[side].finish()
        write_manifest(self.folder / MANIFEST, self._manifest())
        for name in self._old - set(self._names.values()):  # of the store that was here
            with refusals_told(self.folder / name):
                (self.folder / name).unlink(missing_ok=True)
        return EvidenceStore.open(self.folder)

    def discard(self) -> None:
        """Removes what an abandoned build has written, and ends a finished one."""
        for new in self._new.values():
            new.discard()
            new.close()

    def _put(self, side: Side, index: Sequence[int], vectors: NDArray[np.float32]) -> None:
        if len(index) != len(vectors) or (len(index) and vectors.shape[1] != self.dim):
            raise ValueError(f"{side} vectors have shape {vectors.shape}, expected ({len(index)}, {self.dim})")
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
        if not np.allclose(norms, 1.0, atol=1e-2):  # also catches nan
            worst = self.documents[index[int(np.argmax(~np.isclose(norms, 1.0, atol=1e-2)))]].id
            raise ValueError(f"the {side} vector of document {worst!r} is no unit vector (nan or wrong length)")
        for at, row in enumerate(index):
            place = self._place[side].get(row)
            if place is None:
                raise ValueError(f"vectors of another corpus: document number {row} has no {side} here")
            if self._seen[side][place]:
                raise ValueError(f"document {self.documents[row].id!r} was embedded twice")
            self._maps[side][place] = vectors[at]
            self._seen[side][place] = True

    def _table(self, start: int, end: int) -> Any:
        """Some of the documents: texts of a whole corpus need not fit into memory."""
        part = [self.documents[row] for row in range(start, end)]
        names = ("id", "text", "patient_id", "study_id", "modality", "source", "license", "origin")
        columns: dict[str, Any] = {n: pa.array([getattr(d, n) for d in part], pa.string()) for n in names}
        columns["image"] = pa.array([None if d.image is None else str(d.image) for d in part], pa.string())
        columns["image_sha256"] = pa.array(self._image_sha256[start:end], pa.string())
        for side in SIDES:
            columns[f"has_{side}"] = np.isin(np.arange(start, end), self._rows[side])
        return pa.table(columns)

    def _manifest(self) -> dict[str, Any]:
        corpus, ids = corpus_fingerprint(self.documents), [document.id for document in self.documents]
        files = {name: self.folder / name for name in self._names.values()}
        return {
            "schema": SCHEMA,
            "fingerprint": store_fingerprint(str(self.encoder["fingerprint"]), corpus, self.dtype),
            "encoder": self.encoder,
            "corpus": {
                "fingerprint": corpus,
                "documents": len(ids),
                "ids_sha256": fingerprint(ids),
                "pixels_sha256": fingerprint(self._image_sha256),
                "sources": _counts(document.source for document in self.documents),
                "licenses": _counts(document.license for document in self.documents),
                "modalities": _counts(document.modality or "" for document in self.documents),
            },
            "embeddings": {"metric": METRIC, "dtype": self.dtype, "dim": self.dim}
            | {side: len(self._rows[side]) for side in SIDES},
            "files": {n: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for n, path in files.items()},
            "note": PATIENT_NOTE,
        }


def _files_of(folder: Path) -> set[str]:
    """The files of the finished store in `folder`, whatever their state; none where there is no store that can be read."""
    try:
        return set(read_manifest(folder / MANIFEST, "")["files"])
    except (OSError, ValueError, KeyError):
        return set()


def _map(new: Unfinished, dtype: np.dtype[Any], shape: tuple[int, int]) -> np.memmap[Any, Any]:
    """A ``.npy`` file mapped for writing. Its space is taken at once: a disk that fills up later would kill the process."""
    with refusals_told(new.path), os.fdopen(os.dup(new.handle), "r+b") as stream:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.flush()
        size_bytes = stream.tell() + shape[0] * shape[1] * dtype.itemsize
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(new.handle, 0, size_bytes)
        else:
            os.truncate(new.handle, size_bytes)
        mapped: np.memmap[Any, Any] = np.lib.format.open_memmap(new.temporary, "r+")
        return mapped


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(value or "not stated" for value in values).items()))
