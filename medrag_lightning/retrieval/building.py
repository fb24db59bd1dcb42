"""Embeds a corpus into an evidence store in this process, and checks an old store against the images it was made of."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.batches import Embedded, EmbedItem, pixel_sha256
from medrag_lightning.interfaces import OpenImage, Retriever
from medrag_lightning.records import Document
from medrag_lightning.retrieval.store import EvidenceStore, Side, VectorType, rows_with
from medrag_lightning.retrieval.store_writer import StoreWriter

logger = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
"""Called with (done, all) items while a corpus or the queries are embedded."""

CHECKED_IMAGES = 16


def build_store(
    folder: Path,
    documents: Sequence[Document],
    open_image: OpenImage,
    encoder: Retriever,
    dtype: VectorType,
    batch_size: int,
    on_progress: Progress | None = None,
) -> EvidenceStore:
    """Embeds `documents`, `batch_size` at a time, and finishes the store; an interrupted build leaves none."""
    writer = StoreWriter(folder, documents, encoder.fingerprint(), encoder.describe(), encoder.dim, dtype)
    report = Report("documents embedded", len(documents), on_progress)
    try:
        for start in range(0, len(documents), batch_size):
            part = documents[start : start + batch_size]
            images = [None if document.image is None else open_image(document.image) for document in part]
            items = [EmbedItem(start + i, d.text, image) for i, (d, image) in enumerate(zip(part, images, strict=True))]
            writer.add(Embedded.of(items, encoder.embed_images, encoder.embed_texts))
            report.done(start + len(part))
        return writer.finish()
    finally:
        writer.discard()


def check_images(store: EvidenceStore, documents: Sequence[Document], open_image: OpenImage) -> None:
    """ValueError that names a document whose image has other pixels than when it was embedded; looks at a few, evenly."""
    rows = store.rows["image"]
    for row in rows[np.unique(np.linspace(0, len(rows) - 1, CHECKED_IMAGES).astype(int))] if len(rows) else ():
        image = documents[int(row)].image
        assert image is not None
        if pixel_sha256(open_image(image)) != store.image_sha256[int(row)]:
            raise ValueError(
                f"the image of document {documents[int(row)].id!r} has changed since the evidence store {store.folder} was "
                "built; delete that folder to have it built again"
            )


def embed_sides(
    documents: Sequence[Document],
    open_image: OpenImage,
    encoder: Retriever,
    sides: Sequence[Side],
    batch_size: int,
    on_progress: Progress | None = None,
) -> dict[Side, NDArray[np.float32]]:
    """The vectors of some sides in memory: one row for each document that has that side, in corpus order (`rows_with`)."""
    fresh: dict[Side, NDArray[np.float32]] = {}
    for side in sides:
        rows = rows_with(documents, side)
        report = Report(f"{side}s embedded again", len(rows), on_progress)
        parts = []
        for start in range(0, len(rows), batch_size):
            chosen = [documents[int(row)] for row in rows[start : start + batch_size]]
            if side == "image":
                parts.append(encoder.embed_images([open_image(d.image) for d in chosen if d.image is not None]))
            else:
                parts.append(encoder.embed_texts([d.text for d in chosen]))
            report.done(start + len(chosen))
        fresh[side] = np.concatenate(parts) if parts else np.zeros((0, encoder.dim), np.float32)
    return fresh


class Report:
    """Tells a callback how far it is, and the log every 10 seconds, with the time that is left."""

    def __init__(self, what: str, count: int, told: Progress | None) -> None:
        self.what, self.count, self.told = what, count, told
        self.start = self.last = time.monotonic()

    def done(self, done: int) -> None:
        """Tells that so many are done."""
        now = time.monotonic()
        if self.told is not None:
            self.told(done, self.count)
        if now - self.last > 10:
            rate = done / (now - self.start)
            left_seconds = (self.count - done) / rate
            logger.info("%s: %d of %d, %.0f/s, %.0f s left", self.what, done, self.count, rate, left_seconds)
            self.last = now
