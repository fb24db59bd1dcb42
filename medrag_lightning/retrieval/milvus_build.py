"""Puts the vectors of a corpus into Milvus, batch by batch, and knows what is there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.batches import Embedded, EmbedItem, pixel_sha256
from medrag_lightning.interfaces import OpenImage, Retriever
from medrag_lightning.records import Document
from medrag_lightning.retrieval.building import CHECKED_IMAGES, Progress, Report
from medrag_lightning.retrieval.milvus_store import GROUP, MilvusStore
from medrag_lightning.retrieval.store import SCHEMA, SIDES, Side, corpus_fingerprint, rows_with, store_fingerprint

UNIT_SLACK = 1e-2


def expected_manifest(
    documents: Sequence[Document], encoder: Retriever, index: str, settings: Mapping[str, int]
) -> dict[str, Any]:
    """What the collections of a corpus belong to; their `fingerprint` is that of an evidence store of the same two."""
    corpus = corpus_fingerprint(documents)
    return {
        "schema": SCHEMA,
        "fingerprint": store_fingerprint(encoder.fingerprint(), corpus, "float32"),
        "encoder": encoder.fingerprint(),
        "corpus": corpus,
        "documents": len(documents),
        "dim": encoder.dim,
        "index": [index, dict(sorted(settings.items()))],
    }


def check_manifest(store: MilvusStore, manifest: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """ValueError that names what differs between what is there and what is wanted, and the remedy."""
    differing = [
        key for key in ("schema", "encoder", "corpus", "dim", "index", "fingerprint") if manifest.get(key) != expected[key]
    ]
    if differing:
        named = {"index": "another kind of index", "schema": "another schema", "fingerprint": "another fingerprint"}
        told = " and ".join(
            named.get(key, f"another {key}") for key in differing if key != "fingerprint" or len(differing) == 1
        )
        raise ValueError(f"the collections {store.name!r} in {store.uri} were built with {told}; {store.remedy}")


def fill(
    store: MilvusStore,
    documents: Sequence[Document],
    open_image: OpenImage,
    encoder: Retriever,
    batch_size: int,
    on_progress: Progress | None = None,
) -> None:
    """Embeds and writes the batches of documents that are not wholly there."""
    rows = {side: rows_with(documents, side) for side in SIDES}
    report = Report("documents embedded", len(documents), on_progress)
    for first in range(0, len(documents), batch_size * max(GROUP // batch_size, 1)):
        last = min(first + batch_size * max(GROUP // batch_size, 1), len(documents))
        if not _is_there(store, rows, first, last):
            for start in range(first, last, batch_size):
                end = min(start + batch_size, last)
                if not _is_there(store, rows, start, end):
                    _add(store, documents, range(start, end), open_image, encoder)
                report.done(end)
        report.done(last)
    for side in SIDES:
        if len(rows[side]):
            store.flush(side)


def pixels_digest(store: MilvusStore, documents: Sequence[Document]) -> str:
    """Of all images' pixels in corpus order, as an evidence store's manifest has it."""
    found: list[str | None] = [None] * len(documents)
    rows = rows_with(documents, "image").tolist()
    for row, pixels in (store.pixels(rows) if rows else {}).items():
        found[row] = pixels
    assert not any(found[row] is None for row in rows)
    return fingerprint(found)


def check_images(store: MilvusStore, documents: Sequence[Document], open_image: OpenImage) -> None:
    """ValueError that names a document whose image has other pixels than when it was embedded; looks at a few, evenly."""
    rows = rows_with(documents, "image")
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, CHECKED_IMAGES).astype(int))].tolist() if len(rows) else []
    for row, pixels in (store.pixels(chosen) if chosen else {}).items():
        image = documents[row].image
        assert image is not None
        if pixel_sha256(open_image(image)) != pixels:
            raise ValueError(
                f"the image of document {documents[row].id!r} has changed since the collections {store.name!r} in {store.uri} "
                f"were built; {store.remedy}"
            )


def _is_there(store: MilvusStore, rows: Mapping[Side, Any], first: int, last: int) -> bool:
    """Whether all vectors of the documents with numbers in [first, last) are in Milvus."""
    wanted = {side: int(np.searchsorted(rows[side], last) - np.searchsorted(rows[side], first)) for side in SIDES}
    return all(not count or store.count(side, first, last) == count for side, count in wanted.items())


def _add(store: MilvusStore, documents: Sequence[Document], rows: range, open_image: OpenImage, encoder: Retriever) -> None:
    part = [documents[row] for row in rows]
    images = [None if document.image is None else open_image(document.image) for document in part]
    items = [EmbedItem(row, d.text, image) for row, d, image in zip(rows, part, images, strict=True)]
    made = Embedded.of(items, encoder.embed_images, encoder.embed_texts)
    looks = dict(zip(made.image_index, made.image_sha256, strict=True))
    told: dict[Side, tuple[Sequence[int], Any]] = {
        "image": (made.image_index, made.image_ND),
        "text": (made.text_index, made.text_ND),
    }
    for side, (index, vectors) in told.items():
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1) if len(index) else np.ones(0)
        if not np.allclose(norms, 1.0, atol=UNIT_SLACK):  # also catches nan
            worst = documents[index[int(np.argmax(~np.isclose(norms, 1.0, atol=UNIT_SLACK)))]].id
            raise ValueError(f"the {side} vector of document {worst!r} is no unit vector (nan or wrong length)")
        store.add(side, index, [documents[row] for row in index], [looks.get(row, "") for row in index], vectors)
