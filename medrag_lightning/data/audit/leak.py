"""What a leak is: something of a validation or test item that the system has seen, or may look up."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medrag_lightning.data.audit.findings import Finding, Severity
from medrag_lightning.records import Document, ImageRef, Query, Split

SHOWN = 3
SHORT_CHARS = 3
MASK = "***"
CORPUS = "corpus"
TELLS = {
    "train": "no number that is measured there would say what the system does for a new patient",
    "val": "what is chosen on one of them is chosen for the other too",
    CORPUS: "it can be retrieved as evidence",
}


@dataclass(frozen=True, slots=True)
class Leak(Finding):
    """A finding about two sides that should have nothing in common.

    Attributes:
        between: the side that was seen (``train``, ``val`` or ``corpus``) and the side that is judged (``val``, ``test``).
        count: questions of the second side that are concerned.
        examples: the first few, in words; no patient and no study is named.
    """

    between: tuple[str, str] = ("train", "test")
    count: int = 0
    examples: tuple[str, ...] = ()

    @property
    def refuses(self) -> bool:
        """Whether training is refused because of it."""
        return self.severity == "error"

    def finding(self) -> Finding:
        """The same without what only a leak has."""
        return Finding(self.kind, self.severity, self.where, self.what, self.remedy)


@dataclass(frozen=True, slots=True)
class Place:
    """A record and where it stands, so that a user finds it: ``number`` counts from 1 on its side."""

    side: str
    number: int
    record: Query | Document

    def __str__(self) -> str:
        what = "document" if isinstance(self.record, Document) else "question"
        return f"{self.side} {what} {self.number} ({_without_identity(self.record.id, self.record)!r})"

    def image(self) -> str:
        """The name of its image without folder, without what names the patient."""
        return "" if self.record.image is None else _without_identity(_file_name(self.record.image), self.record)


def places(side: str, records: Iterable[Query | Document]) -> list[Place]:
    """Each record with its place on a side."""
    return [Place(side, number, record) for number, record in enumerate(records, 1)]


def split_pairs(splits: Iterable[Split]) -> list[tuple[Split, Split]]:
    """Which splits are compared: what was learnt from first, what is to be judged second."""
    there = set(splits)
    pairs = [(Split.TRAIN, Split.VAL), (Split.TRAIN, Split.TEST), (Split.VAL, Split.TEST)]
    return [pair for pair in pairs if there >= set(pair)]


def severity_of(seen: str) -> Severity:
    """What was trained on is an error; what a choice was made on (validation), or the corpus, a warning."""
    return "error" if seen == Split.TRAIN else "warning"


def leak_of(
    kind: str,
    pairs: Sequence[tuple[Place, Place]],
    what: str,
    remedy: str,
    severity: Severity | None = None,
    images: bool = False,
) -> Leak:
    """The leak that pairs of places make: (seen, judged), one for each judged question, all of the same two sides."""
    seen, judged = pairs[0][0].side, pairs[0][1].side
    examples = tuple(f"{b}{_shown(b, images)} and {a}{_shown(a, images)}" for a, b in pairs[:SHOWN])
    sentence = f"{what}: {TELLS[seen]}; for example {examples[0]}"
    between = (str(seen), str(judged))
    return Leak(kind, severity or severity_of(seen), f"split {judged}", sentence, remedy, between, len(pairs), examples)


def plural(count: int, one: str) -> str:
    """``1 patient``, ``2 patients``, ``2 studies``."""
    many = one[:-1] + "ies" if one.endswith("y") else f"{one}s"
    return f"{count:,} {one if count == 1 else many}"


def _shown(place: Place, images: bool) -> str:
    return f" [{place.image()}]" if images and place.record.image is not None else ""


def _file_name(ref: ImageRef) -> str:
    return Path(ref.path).name if ref.array is None else f"{Path(ref.path).name}#{ref.array}/{ref.index}"


def _without_identity(text: str, record: Query | Document) -> str:
    """`text` with what names the patient or the study taken out, also where only a part of a scoped name is there."""
    for name in (record.study_id, record.patient_id):
        for part in sorted({name or "", *re.split(r"[:/]", name or "")}, key=len, reverse=True):
            if part and len(part) >= SHORT_CHARS:
                text = text.replace(part, MASK)
            elif part:
                text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(part)}(?![A-Za-z0-9])", MASK, text)
    return text
