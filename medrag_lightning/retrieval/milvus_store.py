"""Vectors of a corpus in Milvus, in a local file (milvus-lite) or on a server: the same calls for both.

    NAME_manifest   one row: what the vectors belong to, and whether all are there
    NAME_image      unit vectors of the documents that have an image, by the document's number
    NAME_text       unit vectors of the documents that have a text

Beside a vector stand the sha256 of id, study, patient, image and pixels, so that a filter leaves out what the leak rule forbids
inside the search. No such value, and no other text, reaches a filter in any other form: there is nothing to quote.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.records import Document, Query
from medrag_lightning.retrieval.store import SIDES, Side

IDENTITIES = ("id", "study_id", "patient_id", "image")
FIELDS = {name: f"{name.removesuffix('_id')}_sha256" for name in (*IDENTITIES, "pixels")}
MANIFEST_CHARS = 65_535
MAX_HITS = 16_384  # of one search, a limit of Milvus
GROUP = 4096  # rows that are read or counted at once


class MilvusStore:
    """A connection to Milvus, and the collections of one corpus there.

    Args:
        uri: a file (``.db``), or ``http://host:19530``.
        name: what the names of the collections begin with.
        token: what a server asks for; empty for none.
    """

    def __init__(self, uri: str, name: str, token: str = "") -> None:
        self.uri, self.name = uri, name
        self._pymilvus = load_pymilvus()
        with self._told():
            self._client = self._pymilvus.MilvusClient(uri, token=token)

    def close(self) -> None:
        """Closes the connection. A local file stays open until the process ends."""
        self._client.close()

    def manifest(self) -> dict[str, Any] | None:
        """What `write_manifest` wrote; None where these collections are not there."""
        with self._told():
            if not self._client.has_collection(f"{self.name}_manifest"):
                return None
            self._client.load_collection(f"{self.name}_manifest")
            rows = list(self._client.query(f"{self.name}_manifest", filter="row == 0", output_fields=["manifest"]))
        try:
            told = json.loads(rows[0]["manifest"]) if rows else {}
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise ValueError(f"the manifest of {self.name!r} in {self.uri} is damaged; {self.remedy}")
        return told

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Writes what the vectors belong to."""
        text, types = json.dumps(manifest, sort_keys=True), self._pymilvus.DataType
        assert len(text) <= MANIFEST_CHARS
        fields = {"manifest": {"datatype": types.VARCHAR, "max_length": MANIFEST_CHARS}}
        self._create("manifest", 2, fields, "FLAT", {})
        with self._told():
            self._client.upsert(f"{self.name}_manifest", [{"row": 0, "vector": [1.0, 0.0], "manifest": text}])
            self._client.flush(f"{self.name}_manifest")

    def create(self, side: Side, dim: int, index: str, settings: Mapping[str, int]) -> None:
        """Makes the collection of a side, unless it is there."""
        types = self._pymilvus.DataType
        self._create(
            side, dim, {name: {"datatype": types.VARCHAR, "max_length": 64} for name in FIELDS.values()}, index, settings
        )

    def add(
        self,
        side: Side,
        rows: Sequence[int],
        documents: Sequence[Document],
        pixels: Sequence[str],
        vectors: NDArray[np.float32],
    ) -> None:
        """Writes vectors; those that were there before are replaced.

        Args:
            side: which side of the documents.
            rows: the documents' numbers in the corpus.
            documents: themselves.
            pixels: sha256 of their images' pixels, empty without an image.
            vectors: (len(rows), D).
        """
        told = [
            {"row": row, "vector": vector.tolist(), **identities(document), FIELDS["pixels"]: look}
            for row, document, look, vector in zip(rows, documents, pixels, vectors, strict=True)
        ]
        if told:
            with self._told():
                self._client.upsert(f"{self.name}_{side}", told)

    def flush(self, side: Side) -> None:
        """Has what was added written to disk, and the collection loaded for searches."""
        with self._told():
            self._client.flush(f"{self.name}_{side}")
            self._client.load_collection(f"{self.name}_{side}")

    def count(self, side: Side, first: int, last: int) -> int:
        """Vectors of documents with numbers in [first, last)."""
        asked = f"row >= {int(first)} and row < {int(last)}"
        with self._told():
            (told,) = self._client.query(f"{self.name}_{side}", filter=asked, output_fields=["count(*)"])
        return int(told["count(*)"])

    def pixels(self, rows: Sequence[int]) -> dict[int, str]:
        """sha256 of the pixels of documents' images, by the documents' numbers."""
        return {int(one["row"]): str(one[FIELDS["pixels"]]) for one in self._rows("image", rows, FIELDS["pixels"])}

    def vectors(self, side: Side, rows: Sequence[int]) -> dict[int, NDArray[np.float32]]:
        """Vectors of documents, by the documents' numbers; those that have none are missing."""
        return {int(one["row"]): np.asarray(one["vector"], np.float32) for one in self._rows(side, rows, "vector")}

    def search(
        self, side: Side, query_D: NDArray[np.float32], limit: int, allowed: str, settings: Mapping[str, int]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], list[str]]:
        """The `limit` best documents that a filter allows: numbers (K,), rough scores (K,), vectors (K, D), pixels' sha256."""
        with self._told():
            (hits,) = self._client.search(
                f"{self.name}_{side}",
                data=[query_D.tolist()],
                anns_field="vector",
                limit=limit,
                filter=allowed,
                output_fields=["vector", FIELDS["pixels"]],
                search_params={"metric_type": "IP", "params": dict(settings)},
            )
        found = [
            (int(hit["row"]), hit["distance"], hit["entity"]["vector"], str(hit["entity"][FIELDS["pixels"]])) for hit in hits
        ]
        vectors = np.array([vector for *_, vector, _ in found], np.float32).reshape(len(found), len(query_D))
        rough = np.array([score for _, score, *_ in found], np.float32)
        return np.array([row for row, *_ in found], np.int64), rough, vectors, [pixels for *_, pixels in found]

    @property
    def remedy(self) -> str:
        """What to do about collections that are of no use."""
        names = ", ".join(f"{self.name}_{part}" for part in ("manifest", *SIDES))
        return f"name another collection, or drop those ({names}) to have them built again"

    def _rows(self, side: Side, rows: Sequence[int], field: str) -> Iterator[Any]:
        for start in range(0, len(rows), GROUP):
            asked = f"row in {[int(row) for row in rows[start : start + GROUP]]}"
            with self._told():
                yield from self._client.query(f"{self.name}_{side}", filter=asked, output_fields=["row", field], limit=GROUP)

    def _create(self, part: str, dim: int, fields: Mapping[str, Any], index: str, settings: Mapping[str, int]) -> None:
        types, name = self._pymilvus.DataType, f"{self.name}_{part}"
        with self._told():
            if not self._client.has_collection(name):
                schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
                schema.add_field("row", types.INT64, is_primary=True)
                schema.add_field("vector", types.FLOAT_VECTOR, dim=dim)
                for field, told in fields.items():
                    schema.add_field(field, **told)
                self._client.create_collection(name, schema=schema, consistency_level="Strong")
            if not self._client.list_indexes(name):  # it may have been stopped between the two
                wanted = self._client.prepare_index_params()
                wanted.add_index("vector", index_type=index, metric_type="IP", params=dict(settings))
                self._client.create_index(name, wanted, sync=False)  # loading waits for it

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except self._pymilvus.MilvusException as error:
            shared = "one process at a time may have it open; several need a server"
            hint = "is a server running there?" if is_server(self.uri) else shared
            raise ValueError(f"Milvus at {self.uri} refuses: {str(error).strip()[:500]}; {hint}") from error


def identities(item: Document | Query) -> dict[str, str]:
    """sha256 of id, study, patient and image of a document or query, by the names of their fields; empty where unknown."""
    values = {name: getattr(item, name) for name in IDENTITIES}
    return {FIELDS[name]: "" if value is None else _sha256(name, str(value)) for name, value in values.items()}


def allowed(query: Query, pixels: str | None) -> str:
    """The leak rule (`ranking.leak`) as a filter: documents that share no identity with a query, nor its image's pixels."""
    told = identities(query) | {FIELDS["pixels"]: pixels or ""}
    assert all(re.fullmatch("[0-9a-f]{64}|", value) for value in told.values())
    return " and ".join(f'{field} != "{value}"' for field, value in told.items() if value)


def is_server(uri: str) -> bool:
    """Whether an address is that of a server; else it is a file."""
    return "://" in uri


def checked_uri(uri: str | None, folder: Path) -> str:
    """`uri`, or a file in `folder`. ValueError for what is neither a file's name nor a server's address."""
    if uri is None:
        folder.mkdir(parents=True, exist_ok=True)
        return str((folder / "milvus.db").resolve())
    if is_server(uri):
        if not re.fullmatch(r"https?://[^/@\s]+(/[^@\s]*)?", uri):
            raise ValueError("uri: a server is http://host:port, without user, password or token (token_variable names one)")
        return uri
    if not uri.endswith(".db"):
        raise ValueError(f"uri {uri!r} is neither a server (http://host:19530) nor a file that ends in .db")
    Path(uri).expanduser().resolve().parent.mkdir(parents=True, exist_ok=True)
    return str(Path(uri).expanduser().resolve())


def load_pymilvus() -> Any:
    """The package, or a ValueError that names its extra. Its import may not read a ``.env`` file into the environment."""
    before = os.environ.get("PYTHON_DOTENV_DISABLED")
    os.environ["PYTHON_DOTENV_DISABLED"] = "1"
    try:
        return importlib.import_module("pymilvus")
    except ImportError as error:
        raise ValueError(f"MilvusSearch needs pymilvus ({error}): pip install 'medrag-lightning[milvus]'") from error
    finally:
        os.environ.pop("PYTHON_DOTENV_DISABLED")
        if before is not None:
            os.environ["PYTHON_DOTENV_DISABLED"] = before


def _sha256(kind: str, value: str) -> str:
    return hashlib.sha256(f"{kind}\0{value}".encode("utf-8", "surrogatepass")).hexdigest()
