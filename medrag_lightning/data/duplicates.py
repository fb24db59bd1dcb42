"""Which test questions have a twin in the evidence corpus, so that a score without them can be told (MR-RAG spec, R18)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from medrag_lightning.batches import pixel_sha256
from medrag_lightning.data.images import ImageStore
from medrag_lightning.metrics import normalise_answer
from medrag_lightning.records import Document, ImageRef, Query, shares_identity

MAX_IMAGES = 100_000


def duplicated_queries(
    queries: Sequence[Query], corpus: Sequence[Document], own: Iterable[Document], images: ImageStore
) -> dict[str, bool]:
    """Whether each query is a duplicate, by id; what cannot be judged is left out.

    A query is a duplicate if a corpus document that the leak rule allows it (another patient's, study's and image's) has, once
    case, punctuation and spacing are taken away, the same text as a report of the query's own study or image; or, where no such
    report is known, an image of the same pixels. It does not matter whether that document was retrieved, so all systems are
    judged by the same queries.

    Args:
        queries: of one split.
        corpus: the evidence.
        own: documents that may tell the queries' own reports, whether they are evidence or not.
        images: opens images; only those of a size that a query's image has.
    """
    texts: dict[str | ImageRef | None, set[str]] = defaultdict(set)
    for document in own:
        if text := normalise_answer(document.text):
            texts[document.study_id].add(text)
            texts[document.image].add(text)
    texts.pop(None, None)
    said: dict[str, list[Document]] = defaultdict(list)
    for document in corpus:
        said[normalise_answer(document.text)].append(document)
    found: dict[str, bool] = {}
    silent: list[Query] = []
    for query in queries:
        if mine := texts.get(query.study_id, set()) | texts.get(query.image, set()):
            found[query.id] = any(shares_identity(query, d) is None for text in mine for d in said.get(text, ()))
        elif query.image is not None:
            silent.append(query)
    return found | _same_pixels(silent, corpus, images)


def _same_pixels(queries: Sequence[Query], corpus: Sequence[Document], images: ImageStore) -> dict[str, bool]:
    shown = {query.image for query in queries if query.image is not None}
    sizes = {_size(image, images) for image in shown}
    pictured = [(document, document.image) for document in corpus if document.image is not None]
    if not shown or len(pictured) > MAX_IMAGES:
        return {}
    held: dict[str, list[Document]] = defaultdict(list)
    for document, image in pictured:
        if _size(image, images) in sizes:
            held[pixel_sha256(images(image))].append(document)
    key = {image: pixel_sha256(images(image)) for image in shown} if held else {}
    return {
        query.id: any(shares_identity(query, d) is None for d in held.get(key.get(query.image, ""), ()))
        for query in queries
        if query.image is not None
    }


def _size(image: ImageRef, images: ImageStore) -> tuple[int, ...]:
    """Width and height in px, the smaller first: a header does not know how an image is turned."""
    return tuple(sorted(images.size_px(image)))
