"""Queries as vectors, and their inner products with given documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from medrag_lightning.batches import pixel_sha256
from medrag_lightning.interfaces import OpenImage, QueryEncoder, QuestionEncoder, Retriever
from medrag_lightning.records import Channel, ImageRef, Query
from medrag_lightning.retrieval.building import Progress, Report
from medrag_lightning.retrieval.channels import SIDES_OF
from medrag_lightning.retrieval.rescoring import pair_scores
from medrag_lightning.retrieval.store import Side
from medrag_lightning.retrieval.wording import is_left_out, wording

ByPlace = tuple[Mapping[str, int], NDArray[np.floating[Any]]]
"""Where the vector of a document stands, by its id, and the vectors."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Embedded queries: for each channel the vectors of the different images or questions; which of them each query has.

    `which[asking]` is -1 for a query that has no image, or no question. `pixels` is the sha256 of each query's image.
    """

    queries: tuple[Query, ...]
    vectors: Mapping[Channel, NDArray[np.float32]]
    which: Mapping[Side, list[int]]
    pixels: list[str | None]

    def answers(self, queries: Sequence[Query], channels: Sequence[Channel]) -> bool:
        """Whether these queries have been asked in all these channels."""
        return self.queries == tuple(queries) and all(channel in self.vectors for channel in channels)


def ask(
    queries: Sequence[Query],
    channels: Sequence[Channel],
    encoder: Retriever,
    open_image: OpenImage,
    batch_size: int,
    on_progress: Progress | None = None,
    corpus: str = "",
) -> Asked:
    """Embeds the different images and words (`wording` for `corpus`) of `queries`, each once, for a search in `channels`."""
    images = list(dict.fromkeys(query.image for query in queries if query.image is not None))
    worded = [wording(query, corpus) for query in queries]
    texts = list(dict.fromkeys(words for words in worded if words is not None))
    sides = sorted({SIDES_OF[channel][1] for channel in channels if SIDES_OF[channel][0] == "image"})
    report = Report("query images embedded", len(images), on_progress)
    by_side, pixels = _embed_images(images, sides, encoder, open_image, batch_size, report)
    text_UD = _embed_questions(texts if any(SIDES_OF[channel][0] == "text" for channel in channels) else [], encoder)
    vectors = {
        channel: text_UD if asking == "text" else by_side[side]
        for channel, (asking, side) in SIDES_OF.items()
        if channel in channels
    }
    image_at = {image: place for place, image in enumerate(images)}
    own = [-1 if query.image is None else image_at[query.image] for query in queries]
    text_at = {text: place for place, text in enumerate(texts)}
    which: dict[Side, list[int]] = {
        "image": [-1 if is_left_out(query, corpus) else at for query, at in zip(queries, own, strict=True)],
        "text": [-1 if words is None else text_at[words] for words in worded],
    }
    return Asked(tuple(queries), vectors, which, [None if at < 0 else pixels[at] for at in own])


def pool_similarities(
    asked: Asked, ids: Sequence[Sequence[str]], channels: Sequence[Channel], stored: Callable[[Side], ByPlace]
) -> list[NDArray[np.float32]]:
    """(K, M) inner products of each query with its documents `ids`; NaN where a side is missing. The scores of the search.

    Args:
        asked: the queries.
        ids: of the documents, a list for each query.
        channels: M of them.
        stored: the documents' vectors on a side.
    """
    counts = [len(names) for names in ids]
    owner_P = np.repeat(np.arange(len(ids)), counts)
    similarity_PM = np.full((len(owner_P), len(channels)), np.nan, np.float32)
    for place, channel in enumerate(channels):
        asking, side = SIDES_OF[channel]
        place_of, vectors_ND = stored(side)
        row_P = np.array([place_of.get(name, -1) for names in ids for name in names], np.int64)
        which_B = np.array(asked.which[asking], np.int64)
        known_P = np.flatnonzero((row_P >= 0) & (which_B[owner_P] >= 0))
        query_BD = asked.vectors[channel][which_B] if len(asked.vectors[channel]) else asked.vectors[channel]
        if len(known_P):
            pairs = owner_P[known_P], row_P[known_P]
            similarity_PM[known_P, place] = pair_scores(query_BD, vectors_ND, *pairs, np.float64)
    return np.split(similarity_PM, np.cumsum(counts)[:-1]) if counts else []


def _embed_images(
    images: Sequence[ImageRef],
    sides: Sequence[Side],
    encoder: Retriever,
    open_image: OpenImage,
    batch_size: int,
    report: Report,
) -> tuple[dict[Side, NDArray[np.float32]], list[str]]:
    """Vectors of the images for each side that images are compared with, and the sha256 of their pixels."""
    vectors: dict[Side, list[NDArray[np.float32]]] = {side: [_embed_queries([], [side], encoder)[side]] for side in sides}
    pixels: list[str] = []
    for start in range(0, len(images), batch_size):
        part = [open_image(image) for image in images[start : start + batch_size]]
        pixels += [pixel_sha256(image) for image in part]
        for side, found in _embed_queries(part, sides, encoder).items():
            vectors[side].append(found)
        report.done(len(pixels))
    return {side: np.concatenate(parts) for side, parts in vectors.items()}, pixels


def _embed_queries(images: Sequence[Image], sides: Sequence[Side], encoder: Retriever) -> dict[Side, NDArray[np.float32]]:
    """Query vectors for each side: by its head where the encoder has heads, else the images' own for all."""
    if isinstance(encoder, QueryEncoder):
        return {side: encoder.embed_queries(images, side) for side in sides}
    return dict.fromkeys(sides, encoder.embed_images(images)) if sides else {}


def _embed_questions(texts: Sequence[str], encoder: Retriever) -> NDArray[np.float32]:
    """Vectors of questions: by their own encoder where there is one, else as any text."""
    return encoder.embed_questions(texts) if isinstance(encoder, QuestionEncoder) else encoder.embed_texts(texts)
