"""Items of two splits that share id, patient, study or image file; and how much of the corpus the leak rule keeps back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from medrag_lightning.data.audit.image_pass import ImageFacts
from medrag_lightning.data.audit.leak import CORPUS, Leak, Place, leak_of, places, plural, split_pairs
from medrag_lightning.data.audit.perceptual_hash import is_flat
from medrag_lightning.records import Document, ImageRef, Query, Split

Keys = Callable[[Query], Iterable[Hashable]]
BY_UNIT = "put all questions of one {unit} into one split; a table's split_key or val_share decides, or the file's split column"
IMAGE_REMEDY = "keep each image in one split; remove one of the two rows, or split by patient"


def identity_leaks(queries: Mapping[Split, Sequence[Query]], facts: Mapping[ImageRef, ImageFacts]) -> list[Leak]:
    """Questions of a later split that share id, patient, study or image (file, bytes or pixels) with an earlier one."""
    found: list[Leak] = []
    for seen, judged in split_pairs(queries):
        a, b = places(seen, queries[seen]), places(judged, queries[judged])
        found += _shared(
            "same_id", a, b, lambda query: [query.id], "question", "ids must be unique over all splits: rename one"
        )
        for unit in ("patient", "study"):
            keys = _named(f"{unit}_id")
            found += _shared(f"same_{unit}", a, b, keys, unit, BY_UNIT.format(unit=unit))
        found += _shared("same_image", a, b, lambda query: image_keys(query.image, facts), "image", IMAGE_REMEDY)
    return found


def image_keys(ref: ImageRef | None, facts: Mapping[ImageRef, ImageFacts]) -> list[Hashable]:
    """What makes two images the same: the file, its bytes, or its pixels. Images that show nothing are nobody's copy."""
    if ref is None:
        return []
    known = facts.get(ref)
    if known is not None and known.thumbnail_HW is not None and is_flat(known.thumbnail_HW):
        return []
    keys: list[Hashable] = [("file", ref)]
    if known is not None and known.bytes_sha256 is not None and ref.array is None:  # an array's file holds many images
        keys.append(("bytes", known.bytes_sha256))
    if known is not None and known.pixels_sha256 is not None:
        keys.append(("pixels", known.size_px, known.pixels_sha256))
    return keys


def kept_back(queries: Mapping[Split, Sequence[Query]], corpus: Sequence[Document]) -> list[Leak]:
    """How many validation and test questions have documents that the leak rule (`records.shares_identity`) keeps from them."""
    held: dict[tuple[str, object], Place] = {}
    for place in places(CORPUS, corpus):
        for key in _identity(place.record):
            held.setdefault(key, place)
    found: list[Leak] = []
    for split in (Split.VAL, Split.TEST):
        pairs: list[tuple[Place, Place]] = []
        for place in places(split, queries.get(split, ())):
            pairs += [(held[key], place) for key in _identity(place.record) if key in held][:1]
        if pairs:
            what = (
                f"{plural(len(pairs), 'question')} of {split} share id, patient, study or image with a document of the corpus; "
                "such documents are never shown with them (leak rule)"
            )
            remedy = "nothing to do: retrieval leaves these documents out"
            found.append(leak_of("corpus_shares_identity", pairs, what, remedy, "note"))
    return found


def _identity(record: Query | Document) -> list[tuple[str, object]]:
    known = [("id", record.id), ("study", record.study_id), ("patient", record.patient_id), ("image", record.image)]
    return [(name, value) for name, value in known if value is not None]


def _named(field: str) -> Keys:
    def keys(query: Query) -> list[Hashable]:
        value = getattr(query, field)
        return [] if value is None else [value]

    return keys


def _shared(kind: str, seen: Sequence[Place], judged: Sequence[Place], keys: Keys, unit: str, remedy: str) -> list[Leak]:
    """One leak, if any key of a judged question is also one of a question that was seen."""
    first: dict[Hashable, Place] = {}
    for place in seen:
        assert isinstance(place.record, Query)
        for key in keys(place.record):
            first.setdefault(key, place)
    pairs: list[tuple[Place, Place]] = []
    by: Counter[str] = Counter()
    units: set[Hashable] = set()
    for place in judged:
        assert isinstance(place.record, Query)
        key = next((key for key in keys(place.record) if key in first), None)
        if key is not None:
            pairs.append((first[key], place))
            units.add(key)
            by[str(key[0]) if isinstance(key, tuple) else ""] += 1
    if not pairs:
        return []
    a, b = pairs[0][0].side, pairs[0][1].side
    how = "" if unit != "image" else f" (same {', same '.join(f'{name} {count:,}' for name, count in by.items())})"
    many = f"{plural(len(units), unit)} of {a} {'is' if len(units) == 1 else 'are'}"
    what = f"{many} also in {b}, in {plural(len(pairs), 'question')}{how}"
    return [leak_of(kind, pairs, what, remedy, images=unit == "image")]
