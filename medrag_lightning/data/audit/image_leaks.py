"""Images of two sides that show the same picture though their files differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from medrag_lightning.data.audit.identity_leaks import image_keys
from medrag_lightning.data.audit.image_pass import ImageFacts
from medrag_lightning.data.audit.leak import CORPUS, Leak, Place, leak_of, places, plural, split_pairs
from medrag_lightning.data.audit.perceptual_hash import Thumbnails, is_flat, twins
from medrag_lightning.records import Document, ImageRef, Query, Split, shares_identity

Facts = Mapping[ImageRef, ImageFacts]
SPLIT_REMEDY = "look at the two files; keep one of them, or put both into one split"
CORPUS_REMEDY = (
    "give both the same patient_id or study_id if they are one patient's, then the leak rule keeps the document back; else "
    "remove it from the corpus, or read the metrics without duplicates, which `test` tells apart"
)


def image_leaks(queries: Mapping[Split, Sequence[Query]], corpus: Sequence[Document], facts: Facts) -> list[Leak]:
    """Near-duplicates between splits, and corpus documents that show a held-out question's picture unseen by the leak rule.

    A document of the corpus is a warning: nothing was trained on the question, but its picture's own report can be retrieved.
    """
    sides = {str(split): places(split, queries[split]) for split in queries} | {CORPUS: places(CORPUS, corpus)}
    shown = {side: _by_image(mine, facts) for side, mine in sides.items()}
    found: list[Leak] = []
    for judged in (Split.VAL, Split.TEST):
        if not shown.get(judged):
            continue
        seen = [str(a) for a, b in split_pairs(queries) if b is judged] + [CORPUS]
        same = _same_picture(shown[judged], [shown[side] for side in seen], facts)
        for side in seen:
            pairs = _pairs(same, shown[judged], shown[side], facts)
            if pairs and side == CORPUS:
                found.append(_of_corpus(pairs, judged))
            elif pairs:
                found.append(_of_splits(pairs))
    return found


def _of_splits(pairs: Sequence[tuple[Place, Place]]) -> Leak:
    a, b = pairs[0][0].side, pairs[0][1].side
    images = len({place.record.image for _, place in pairs})
    many = "shows the same picture as one" if images == 1 else "show the same pictures as some"
    what = f"{plural(images, 'image')} of {b} {many} of {a}, saved anew, resized, mirrored or made brighter"
    return leak_of("near_duplicate_image", pairs, what, SPLIT_REMEDY, images=True)


def _of_corpus(pairs: Sequence[tuple[Place, Place]], judged: str) -> Leak:
    what = (
        f"{plural(len(pairs), 'question')} of {judged} have their own picture in the corpus, in a document that names another "
        "patient, study and image file, so that the leak rule cannot see it"
    )
    return leak_of("corpus_duplicate_image", pairs, what, CORPUS_REMEDY, images=True)


def _by_image(mine: Sequence[Place], facts: Facts) -> dict[ImageRef, list[Place]]:
    """The places of each image that could be read and shows something."""
    found: dict[ImageRef, list[Place]] = defaultdict(list)
    for place in mine:
        ref = place.record.image
        known = None if ref is None else facts.get(ref)
        if ref is not None and known is not None and known.thumbnail_HW is not None and not is_flat(known.thumbnail_HW):
            found[ref].append(place)
    return dict(found)


def _same_picture(
    mine: Mapping[ImageRef, list[Place]], others: Sequence[Mapping[ImageRef, list[Place]]], facts: Facts
) -> dict[ImageRef, list[ImageRef]]:
    """The images of the other sides that show the same picture as each of mine: equal ones first, then near ones."""
    pool = list(dict.fromkeys(ref for side in others for ref in side))
    held = defaultdict(list)
    for ref in pool:
        for key in image_keys(ref, facts):
            held[key].append(ref)
    same: dict[ImageRef, list[ImageRef]] = {}
    for ref in mine:
        same[ref] = list(dict.fromkeys(other for key in image_keys(ref, facts) for other in held.get(key, ())))
    rows, own = list(mine), set(mine)
    distinct = [ref for ref in pool if ref not in own]
    for twin in twins(_thumbnails(rows, facts), _thumbnails(distinct, facts)):
        if distinct[twin.pool_row] not in same[rows[twin.row]]:
            same[rows[twin.row]].append(distinct[twin.pool_row])
    return same


def _thumbnails(refs: Sequence[ImageRef], facts: Facts) -> Thumbnails:
    greys = [grey for ref in refs if (grey := facts[ref].thumbnail_HW) is not None]
    sides = [min(size) for ref in refs if (size := facts[ref].size_px) is not None]
    assert len(greys) == len(sides) == len(refs)
    return Thumbnails(np.stack(greys) if greys else np.zeros((0, 1, 1), np.uint8), np.array(sides, np.int64))


def _pairs(
    same: Mapping[ImageRef, Sequence[ImageRef]],
    judged: Mapping[ImageRef, list[Place]],
    side: Mapping[ImageRef, list[Place]],
    facts: Facts,
) -> list[tuple[Place, Place]]:
    """For each judged question the first place of the other side with its picture that nothing else tells about already.

    Between splits equal files, bytes and pixels are told elsewhere; in the corpus what the leak rule sees is.
    """
    pairs = []
    for ref, mine in judged.items():
        others = [other for other in same.get(ref, ()) if other in side]
        for place in mine:
            if (seen := _first(place, others, side, facts)) is not None:
                pairs.append((seen, place))
    return sorted(pairs, key=lambda pair: pair[1].number)


def _first(place: Place, others: Sequence[ImageRef], side: Mapping[ImageRef, list[Place]], facts: Facts) -> Place | None:
    assert isinstance(place.record, Query)
    for other in others:
        for seen in side[other]:
            if isinstance(seen.record, Document):
                if shares_identity(place.record, seen.record) is None:
                    return seen
            elif not set(image_keys(other, facts)) & set(image_keys(place.record.image, facts)):
                return seen
    return None
