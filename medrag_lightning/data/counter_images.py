"""The other image v* that stands in the place of a query's own (HeteroRAG's counter-image, MMed-RAG's noised one)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.batches import pixel_sha256
from medrag_lightning.data.feeds import World
from medrag_lightning.data.other_cases import OtherCases
from medrag_lightning.interfaces import SimilaritySource
from medrag_lightning.records import Channel, Condition, Document, ImageRef, ImageShown, Query, Split

PAIRS = 1_000_000  # similarities held at once
_NEEDS = (
    "data.knowledge.counter_image: least_similar needs a data.source that tells how similar images are, such as LiveSearch; "
    "give one, or counter_image unrelated, noise or blank"
)
CORRUPTIONS = {"noise": "replace", "blank": "blank"}


class CounterImages:
    """Another image for each query, as `data.knowledge.counter_image` says; never one of its own case, nor a copy of its own.

    ``least_similar``: among the images of the corpus of the query's modality, the one with the lowest image-to-image similarity
    (the first of equals, in corpus order); among all, where the query's modality is not known or has no other image. Each
    different image is compared once. ``unrelated``: the image of another question of the query's split, drawn: with the same
    words where there is one. Neither depends on which queries are asked for.

    Args:
        world: corpus, queries and the source that tells similarities.
        queries: those that `of` will be asked about.

    Raises:
        ValueError: `data.knowledge` is not set, or the source cannot tell similarities.
    """

    def __init__(self, world: World, queries: Sequence[Query]) -> None:
        if world.knowledge is None:
            raise ValueError("no other image is known: set data.knowledge (its counter_image says which)")
        self.world, self.kind = world, world.knowledge.counter_image
        self.picker = world.picker()
        pictured = [query for query in queries if query.image is not None]
        self._of: dict[str, Condition | None] = dict.fromkeys(query.id for query in queries)
        if self.kind == "least_similar":
            self._of |= {name: _other(document.id) for name, document in self._least_similar(pictured).items()}
        elif self.kind == "unrelated":
            self._of |= self._unrelated(pictured)
        else:
            spoilt = Condition((), ImageShown.CORRUPTED, corruption=CORRUPTIONS[self.kind])
            self._of |= dict.fromkeys((query.id for query in pictured), spoilt)

    def of(self, query: Query) -> Condition | None:
        """The other image, without evidence; None for a query that has no image, or for which no other is legal."""
        if query.id not in self._of:
            raise ValueError(f"query {query.id!r} is not among those that counter-images were made for")
        return self._of[query.id]

    def _least_similar(self, queries: Sequence[Query]) -> dict[str, Document]:
        """The document of each query, by its id."""
        images: dict[str | None, list[Document]] = defaultdict(list)
        asked: dict[str | None, list[Query]] = defaultdict(list)
        pictured = [document for document in self.world.documents if document.image is not None]
        for document in pictured:
            images[document.modality].append(document)
        for query in queries:
            asked[query.modality].append(query)
        asked.pop(None, None)
        found: dict[str, Document] = {}
        for modality, mine in asked.items():
            found |= self._farthest(mine, images[modality])
        return found | self._farthest([query for query in queries if query.id not in found], pictured)

    def _farthest(self, queries: Sequence[Query], documents: Sequence[Document]) -> dict[str, Document]:
        """The legal one of `documents` that is least like each query's image; queries without a legal one are left out."""
        source = self.world.source
        if not isinstance(source, SimilaritySource):
            raise ValueError(f"{_NEEDS}; {type(source).__name__} cannot tell")
        with_image: dict[ImageRef, list[Query]] = defaultdict(list)
        for query in queries:
            if query.image is not None:
                with_image[query.image].append(query)
        groups, ids = list(with_image.values()), [document.id for document in documents]
        found: dict[str, Document] = {}
        at_once = max(1, PAIRS // max(1, len(ids)))
        for start in range(0, len(groups) if ids else 0, at_once):
            part = groups[start : start + at_once]
            first = [group[0] for group in part]
            similarity = source.similarities(first, [ids] * len(first), [Channel.IMAGE_TO_IMAGE])
            for group, similarity_K1 in zip(part, similarity, strict=True):
                if np.isnan(similarity_K1).all():
                    raise ValueError(f"{_NEEDS}; {type(source).__name__} compares no images (query {group[0].id!r})")
                for query in group:
                    offered = (documents[place] for place in _ascending(similarity_K1[:, 0]))
                    if legal := self.picker.legal_documents(query, offered, 1, set()):
                        found[query.id] = legal[0]
        return found

    def _unrelated(self, queries: Sequence[Query]) -> dict[str, Condition]:
        cases = {split: OtherCases(self.world.queries.get(split, []), self.world.seed) for split in Split}
        found: dict[str, Condition] = {}
        for query in queries:
            mine = self._pixels(query)
            others = (other.id for other in cases[query.split].with_an_image(query) if self._pixels(other) != mine)
            if (owner := next(others, None)) is not None:
                found[query.id] = _other(owner)
        return found

    def _pixels(self, query: Query) -> str:
        assert query.image is not None
        return pixel_sha256(self.world.open_image(query.image))


def _other(owner: str) -> Condition:
    return Condition((), ImageShown.OTHER, owner)


def _ascending(similarity_K: NDArray[np.float32]) -> Iterator[int]:
    """Places from the lowest similarity up, the first of equals first; those without one (NaN) are left out."""
    left_K = np.where(np.isnan(similarity_K), np.inf, similarity_K)
    while len(left_K) and left_K[place := int(left_K.argmin())] < np.inf:
        yield place
        left_K[place] = np.inf
