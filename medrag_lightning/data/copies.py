"""Which documents of a corpus repeat an earlier one: the same picture in another file, or the same words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medrag_lightning.data.audit.image_copies import image_copies, similarity
from medrag_lightning.data.audit.image_facts import ImageFacts
from medrag_lightning.data.audit.near_text import near_texts, normalised
from medrag_lightning.data.audit.perceptual_hash import Thumbnails, is_flat
from medrag_lightning.records import Document, ImageRef

Because = Literal["same picture", "near picture", "same text", "near text"]
Told = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Copy:
    """A document that repeats another, by their ids. `likeness` is that of pictures; 1 for texts and equal ones."""

    removed: str
    kept: str
    because: Because
    likeness: float = 1.0


def picture_copies(
    documents: Sequence[Document], facts: Mapping[ImageRef, ImageFacts], distance: float, told: Told | None = None
) -> list[Copy]:
    """The documents whose picture an earlier document shows in another file, and those that repeat an earlier document's image
    and words.

    Documents that share one image file and say different things about it (the questions about one image) are no copies. An
    image is only a copy of one that stays: what resembles a removed one is compared with the one that stayed.
    """
    owner: dict[ImageRef, Document] = {}
    for document in documents:
        if document.image is not None:
            owner.setdefault(document.image, document)
    kept = _kept_images(list(owner), facts, distance, told)
    found: list[Copy] = []
    said: dict[tuple[ImageRef, str], str] = {}
    for document in documents:
        if (image := document.image) is None:
            continue
        if image in kept:
            other, likeness = kept[image]
            because: Because = "same picture" if likeness >= 1 else "near picture"
            found.append(Copy(document.id, owner[other].id, because, likeness))
        elif (first := said.setdefault((image, normalised(document.text)), document.id)) != document.id:
            found.append(Copy(document.id, first, "same picture"))
    return found


def text_copies(documents: Sequence[Document]) -> list[Copy]:
    """The documents without an image that say what an earlier one says, word for word or nearly so (`audit.near_text`)."""
    first: dict[str, str] = {}
    found: list[Copy] = []
    for document in documents:
        text = "" if document.image is not None else normalised(document.text)
        if text and (earlier := first.setdefault(text, document.id)) != document.id:
            found.append(Copy(document.id, earlier, "same text"))
    texts, ids = list(first), list(first.values())
    near = {(max(a, b), min(a, b)) for a, b in near_texts(texts, texts) if a != b}
    replaced = _replaced(sorted(near), lambda later, earlier: float((later, earlier) in near))
    kept_of = {ids[later]: ids[earlier] for later, (earlier, _) in replaced.items()}
    exact = [Copy(copy.removed, kept_of.get(copy.kept, copy.kept), copy.because) for copy in found]
    order = {document.id: place for place, document in enumerate(documents)}
    return sorted([*exact, *(Copy(a, b, "near text") for a, b in kept_of.items())], key=lambda copy: order[copy.removed])


def _kept_images(
    images: Sequence[ImageRef], facts: Mapping[ImageRef, ImageFacts], distance: float, told: Told | None
) -> dict[ImageRef, tuple[ImageRef, float]]:
    """For each image that is a copy: the earlier image that stays, and how alike they are. Unread and flat ones are none."""
    first: dict[str, ImageRef] = {}
    equal: dict[ImageRef, ImageRef] = {}
    for image in images:
        known = facts[image]
        if known.pixels_sha256 is None or known.thumbnail_HW is None or is_flat(known.thumbnail_HW):
            continue
        if (earlier := first.setdefault(known.pixels_sha256, image)) != image:
            equal[image] = earlier
    rows = list(first.values())
    shown = _thumbnails(rows, facts)
    alike = {(twin.row, twin.pool_row): twin.similarity for twin in image_copies(shown, distance, told)}

    def likeness(later: int, earlier: int) -> float:
        near = float(similarity(shown, np.array([later]), np.array([earlier]))[0])
        return alike.get((later, earlier), near if near >= 1 - distance else 0.0)

    near = {rows[later]: (rows[earlier], min(like, 0.9999)) for later, (earlier, like) in _replaced(alike, likeness).items()}
    return near | {image: near.get(earlier, (earlier, 1.0)) for image, earlier in equal.items()}


def _replaced(pairs: Iterable[tuple[int, int]], likeness: Callable[[int, int], float]) -> dict[int, tuple[int, float]]:
    """What stays in the place of each number, and how alike they are, from pairs (later, earlier) of copies in order.

    A chain of copies removes none that is not alike to one that stays.
    """
    found: dict[int, tuple[int, float]] = {}
    for later, earlier in pairs:
        stays = found[earlier][0] if earlier in found else earlier
        if later not in found and (like := likeness(later, stays)) > 0:
            found[later] = stays, like
    return found


def _thumbnails(images: Sequence[ImageRef], facts: Mapping[ImageRef, ImageFacts]) -> Thumbnails:
    greys = [grey for image in images if (grey := facts[image].thumbnail_HW) is not None]
    sides = [min(size) for image in images if (size := facts[image].size_px) is not None]
    return Thumbnails(np.stack(greys) if greys else np.zeros((0, 1, 1), np.uint8), np.array(sides, np.int64))
