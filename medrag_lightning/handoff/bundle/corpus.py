"""The evidence of a bundle: stores without names of people or places, and the images that prompts show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.batches import Embedded, pixel_sha256
from medrag_lightning.handoff.bundle.identities import Identities
from medrag_lightning.handoff.bundle.layout import IMAGES, INDEX
from medrag_lightning.handoff.bundle.sources import searches
from medrag_lightning.interfaces import CandidateSource, OpenImage
from medrag_lightning.records import Document, ImageRef
from medrag_lightning.retrieval.index import copy_index, index_path, open_index
from medrag_lightning.retrieval.source import LiveSearch
from medrag_lightning.retrieval.store import EvidenceStore
from medrag_lightning.retrieval.store_writer import StoreWriter

ROWS = 16_384
Told = Callable[[str, int, int], None]
"""Called with (what, done, all)."""


def write_corpus(
    source: CandidateSource, made: CandidateSource, root: Path, identities: Identities, open_image: OpenImage, told: Told
) -> list[EvidenceStore]:
    """Writes the stores that `source` has loaded below ``index/``, and their images below ``images/``; gives the new stores.

    Vectors are copied. Ids of patients, studies and documents are hashed, images are PNG without metadata, named by their
    pixels, so that no file name of the hospital's stays.

    Args:
        source: of the training side, loaded.
        made: the same, as the bundle will make it; its encoders give the stores their fingerprints.
        root: where ``index/`` and ``images/`` are made.
        identities: hashes ids.
        open_image: opens the corpus's images.
        told: hears how far it is.

    Raises:
        ValueError: an image has changed since it was embedded.
    """
    stores = []
    for (place, search), (_, twin) in zip(searches(source), searches(made), strict=True):
        store = search._opened()
        documents = _without_names(search._documents, store, root, identities, open_image, told)
        folder = root / INDEX / place
        writer = StoreWriter(
            folder, documents, twin.encoder.fingerprint(), twin.encoder.describe(), twin.encoder.dim, search.dtype
        )
        try:
            for start in range(0, len(documents), ROWS):
                writer.add(_embedded(store, documents, start))
                told("vectors copied", min(start + ROWS, len(documents)), len(documents))
            stores.append(writer.finish())
        finally:
            writer.discard()
        _copy_indexes(search, store, stores[-1])
    return stores


def read_documents(root: Path, places: Sequence[str]) -> list[Document]:
    """The documents of all stores, with their images' paths below `root`."""
    found = []
    for place in places:
        for document in EvidenceStore.open(root / INDEX / place).documents():
            image = document.image
            found.append(document if image is None else replace(document, image=ImageRef(str(root / image.path))))
    return found


def _without_names(
    documents: Sequence[Document], store: EvidenceStore, root: Path, identities: Identities, open_image: OpenImage, told: Told
) -> list[Document]:
    (root / IMAGES).mkdir(parents=True, exist_ok=True)
    made = []
    for number, (document, pixels) in enumerate(zip(documents, store.image_sha256, strict=True), 1):
        image = None
        if document.image is not None:
            name = f"{IMAGES}/{pixels}.png"
            if not (root / name).exists():
                opened = open_image(document.image)
                if pixel_sha256(opened) != pixels:
                    raise ValueError(
                        f"the image of document number {number} has changed since the evidence store {store.folder} was built; "
                        "delete that folder to have it built again"
                    )
                opened.convert("RGB").save(root / name, "PNG")
            image = ImageRef(name)
        made.append(replace(identities.of_document(document), image=image))
        if number % 200 == 0 or number == len(documents):
            told("documents and images written", number, len(documents))
    return made


def _embedded(store: EvidenceStore, documents: Sequence[Document], start: int) -> Embedded:
    """The vectors of the documents from `start`, at most ROWS of them."""
    parts = {}
    for side in ("image", "text"):
        rows = store.rows[side]
        first, last = np.searchsorted(rows, [start, start + ROWS])
        vectors = np.asarray(store.vectors[side][first:last], np.float32)
        parts[side] = tuple(int(row) for row in rows[first:last]), vectors
    images, texts = parts["image"][0], parts["text"][0]
    return Embedded(
        image_index=images,
        image_ND=parts["image"][1],
        image_sha256=tuple(str(store.image_sha256[row]) for row in images),
        text_index=texts,
        text_ND=parts["text"][1],
        text_sha256=tuple(fingerprint(documents[row].text) for row in texts),
    )


def _copy_indexes(search: LiveSearch, old: EvidenceStore, new: EvidenceStore) -> None:
    """The search's indexes under the names that the new store gives them; built ones are copied: the same neighbours."""
    for side in search._document_sides():
        before = index_path(old, side, search.index)
        if before.is_file():
            copy_index(before, index_path(new, side, search.index))
        else:
            open_index(new, side, search.index)
