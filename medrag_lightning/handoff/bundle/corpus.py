"""The evidence of a bundle: stores and indexes without names of people or places, and the images that prompts show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.batches import Embedded, pixel_sha256
from medrag_lightning.handoff.bundle.identities import Identities
from medrag_lightning.handoff.bundle.layout import IMAGES, INDEX
from medrag_lightning.handoff.bundle.sources import Leaf, searches
from medrag_lightning.interfaces import CandidateSource, OpenImage
from medrag_lightning.records import Document, ImageRef
from medrag_lightning.retrieval import document_file
from medrag_lightning.retrieval.graph import GraphSearch
from medrag_lightning.retrieval.index import copy_index
from medrag_lightning.retrieval.lexical import LexicalSearch
from medrag_lightning.retrieval.source import LiveSearch
from medrag_lightning.retrieval.store import EvidenceStore, corpus_fingerprint
from medrag_lightning.retrieval.store_writer import StoreWriter

ROWS = 16_384
Told = Callable[[str, int, int], None]
"""Called with (what, done, all)."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was written for one search: its fingerprint, and the counts of its documents unless an earlier one has the same."""

    fingerprint: str
    corpus: Mapping[str, Any] | None


def write_corpus(
    source: CandidateSource, made: CandidateSource, root: Path, identities: Identities, open_image: OpenImage, told: Told
) -> list[Evidence]:
    """Writes what `source` has loaded below ``index/``, and the images below ``images/``; tells of each search's part.

    Vectors and lexical indexes are copied, graphs built again. Ids of patients, studies and documents are hashed, images are
    PNG without metadata, named by their pixels, so that no file name of the hospital's stays.

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
    writing = _Writing(root, identities, open_image, told)
    pairs = [(place, one, twin) for (place, one), (_, twin) in zip(searches(source), searches(made), strict=True)]
    kinds = (LiveSearch, LexicalSearch, GraphSearch)  # stores hold documents, which others over the same ones need not
    for place, search, twin in sorted(pairs, key=lambda pair: kinds.index(type(pair[1]))):
        if isinstance(search, LiveSearch):
            writing.store(place, search, twin)
        else:
            writing.index(place, search, twin)
    return writing.found


def read_documents(root: Path, places: Sequence[tuple[str, Leaf]]) -> list[Document]:
    """The documents of all searches, each once, with their images' paths below `root`."""
    found: dict[str, Document] = {}
    for place, _ in sorted(places, key=lambda one: isinstance(one[1], GraphSearch)):  # which may know only some of a corpus
        folder = root / INDEX / place
        if EvidenceStore.exists(folder):
            mine = EvidenceStore.open(folder).documents()
        else:
            mine = document_file.read_documents(folder) if document_file.has_documents(folder) else []
        for document in mine:
            image = document.image
            whole = document if image is None else replace(document, image=ImageRef(str(root / image.path)))
            found.setdefault(document.id, whole)
    return list(found.values())


class _Writing:
    """The evidence of one bundle, search by search."""

    def __init__(self, root: Path, identities: Identities, open_image: OpenImage, told: Told) -> None:
        self.root, self.identities, self.open_image, self.told = root, identities, open_image, told
        self.found: list[Evidence] = []
        self._hidden: dict[tuple[str, ...], list[Document]] = {}
        self._written: set[str] = set()
        (root / IMAGES).mkdir(parents=True, exist_ok=True)

    def store(self, place: str, search: LiveSearch, twin: Leaf) -> None:
        """A store of the same vectors, and its indexes."""
        assert isinstance(twin, LiveSearch), "made from the same entry"
        store = search._opened()
        new = self._is_new(search._documents)
        documents = self._without_names(search._documents, store)
        encoder = twin.encoder
        writer = StoreWriter(
            self.root / INDEX / place, documents, encoder.fingerprint(), encoder.describe(), encoder.dim, search.dtype
        )
        try:
            for start in range(0, len(documents), ROWS):
                writer.add(_embedded(store, documents, start))
                self.told("vectors copied", min(start + ROWS, len(documents)), len(documents))
            made = writer.finish()
        finally:
            writer.discard()
        _copy_indexes(search, store, made)
        self.found.append(Evidence(made.fingerprint, made.manifest["corpus"] if new else None))

    def index(self, place: str, search: Leaf, twin: Leaf) -> None:
        """An index of texts or a graph, and its documents unless they stand elsewhere."""
        folder, new = self.root / INDEX / place, self._is_new(search._documents)
        folder.mkdir(parents=True, exist_ok=True)
        documents = self._without_names(search._documents, None)
        corpus = document_file.write_documents(folder, documents) if new else None
        if isinstance(twin, LexicalSearch):
            assert isinstance(search, LexicalSearch), "made from the same entry"
            twin.prepare_from(search, documents, folder)
        else:
            twin.prepare(documents, self.open_image, folder)
        self.told("indexes written", len(documents), len(documents))
        self.found.append(Evidence(corpus_fingerprint(documents), corpus))

    def _is_new(self, documents: Sequence[Document]) -> bool:
        """Whether some of them do not stand in the bundle yet; from now on they do."""
        ids = {document.id for document in documents}
        new = not ids <= self._written
        self._written |= ids
        return new

    def _without_names(self, documents: Sequence[Document], store: EvidenceStore | None) -> list[Document]:
        """The documents with hashed ids and their images below ``images/``; made once for all searches of the same ones."""
        key = tuple(document.id for document in documents)
        if key not in self._hidden:
            made = []
            for number, document in enumerate(documents, 1):
                pixels = None if store is None else store.image_sha256[number - 1]
                made.append(replace(self.identities.of_document(document), image=self._image(number, document, pixels, store)))
                if number % 200 == 0 or number == len(documents):
                    self.told("documents and images written", number, len(documents))
            self._hidden[key] = made
        return self._hidden[key]

    def _image(self, number: int, document: Document, pixels: str | None, store: EvidenceStore | None) -> ImageRef | None:
        """Where the image of a document lies now, named by its pixels; written unless it is there."""
        if document.image is None:
            return None
        opened = None
        if pixels is None or not (self.root / IMAGES / f"{pixels}.png").exists():
            opened = self.open_image(document.image)
        found = pixels if opened is None else pixel_sha256(opened)
        if pixels is not None and found != pixels:
            assert store is not None
            raise ValueError(
                f"the image of document number {number} has changed since the evidence store {store.folder} was built; "
                "delete that folder to have it built again"
            )
        name = f"{IMAGES}/{found}.png"
        if opened is not None and not (self.root / name).exists():
            opened.convert("RGB").save(self.root / name, "PNG")
        return ImageRef(name)


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
        copy_index(old, new, side, search.index)
