"""Several tables as one corpus in which nothing stands twice (HeteroRAG, MedAtlas: copies removed by perceptual hash)."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medrag_lightning.artifacts import fingerprint, read_manifest, write_manifest
from medrag_lightning.data.audit.image_copies import DISTANCE
from medrag_lightning.data.audit.image_facts import ImageFacts
from medrag_lightning.data.audit.image_pass import image_facts
from medrag_lightning.data.audit.progress import telling
from medrag_lightning.data.copies import Copy, picture_copies, text_copies
from medrag_lightning.records import Document, ImageRef, Query, unique_by_id

if TYPE_CHECKING:  # the seams need torch, and reading tables does not
    from medrag_lightning.interfaces import Table

SCHEMA = 1  # raise it when other documents are found to be copies
FEW = 500  # images that one process opens sooner than others are started
log = logging.getLogger(__name__)


class DistinctCorpus:
    """The documents of several tables without those that repeat an earlier one, inside a table and across tables.

    Documents with an image are compared by their pictures: resized, encoded anew, made brighter or darker, but not mirrored.
    Several documents about one image file stay, unless they say the same. Documents without an image are compared by their
    words; those that differ in a number, a side or a negation stay. The first stays, in the order of the tables: put a
    hospital's own tables first, for the leak rule goes by the patient and study of the document that stays.

    What was removed, and for which document, is written to ``FOLDER/removed-....json`` and counted in the log by the sources of
    both; a second run on the same documents and files reads it there.

    Args:
        tables: where the documents come from.
        images: whether copies of pictures are removed.
        texts: whether repeated texts without an image are removed.
        distance: 1 - similarity up to which two pictures are one (`audit.image_copies`); 0 for equal pixels alone. Real
            photographs and films bear 0.15, which finds coarser copies.
        folder: where the list of what was removed is kept, beside the evidence stores.
        max_pixels: larger images are not opened, and stay.
    """

    def __init__(
        self,
        tables: list[Table],
        images: bool = True,
        texts: bool = True,
        distance: float = DISTANCE,
        folder: str = "runs/evidence",
        max_pixels: int = 50_000_000,
    ) -> None:
        if not tables:
            raise ValueError("DistinctCorpus: name at least one of tables")
        if not (images or texts):
            raise ValueError("DistinctCorpus: with neither images nor texts nothing is removed; name its tables themselves")
        if not 0 <= distance < 0.5:
            raise ValueError(f"DistinctCorpus: distance must lie in [0, 0.5), got {distance}; different pictures begin at 0.05")
        self.tables, self.images, self.texts, self.distance = list(tables), images, texts, distance
        self.folder, self.max_pixels = Path(folder), max_pixels
        self._documents: list[Document] | None = None

    def queries(self) -> list[Query]:
        """The questions of its tables."""
        return [query for table in self.tables for query in table.queries()]

    def documents(self) -> list[Document]:
        """What stays, in table order. ValueError if an id occurs twice."""
        if self._documents is None:
            every = [document for table in self.tables for document in table.documents()]
            unique_by_id(every, "DistinctCorpus.tables")
            report = self._report(every)
            _tell(report, self._file(every))
            gone = {told["id"] for told in report["removed"]}
            self._documents = [document for document in every if document.id not in gone]
        return list(self._documents)

    def roots(self) -> list[Path]:
        """The folders of its tables."""
        return list(dict.fromkeys(root for table in self.tables for root in table.roots()))

    def _file(self, every: Sequence[Document]) -> Path:
        """Named by everything that the answer depends on; of an image file its size and time of change."""
        told = [f"{d.id}\t{d.source}\t{d.patient_id}\t{d.study_id}\t{d.image}\t{d.text}" for d in every]
        files = dict.fromkeys(d.image.path for d in every if d.image is not None) if self.images else {}
        settings = [SCHEMA, self.images, self.texts, self.distance, self.max_pixels]
        key = fingerprint(settings, "\n".join(told), "\n".join(map(_state, files)))
        return self.folder / f"removed-{key[:16]}.json"

    def _report(self, every: Sequence[Document]) -> dict[str, Any]:
        """From an earlier run, else looked for now."""
        file = self._file(every)
        if file.is_file():
            return read_manifest(file, f"delete {file} to have it looked for again")
        facts = self._facts(every) if self.images else {}
        copies: list[Copy] = []
        if self.images:
            with telling("images compared") as told:
                copies = picture_copies(every, facts, self.distance, told)
        copies += text_copies(every) if self.texts else []
        report = _summary(every, copies) | {"images_unread": sum(one.fault is not None for one in facts.values())}
        report = {"schema": SCHEMA, "distance": self.distance} | report
        write_manifest(file, report)
        return report

    def _facts(self, every: Sequence[Document]) -> Mapping[ImageRef, ImageFacts]:
        refs = list(dict.fromkeys(document.image for document in every if document.image is not None))
        with telling("images") as told:
            return image_facts(refs, self.roots(), self.max_pixels, 1 if len(refs) < FEW else None, told, self.folder)


def _summary(every: Sequence[Document], copies: Sequence[Copy]) -> dict[str, Any]:
    """What was removed, by document and by the sources of both; and what its removal loses."""
    by_id = {document.id: document for document in every}
    pairs = [(copy, by_id[copy.removed], by_id[copy.kept]) for copy in copies]
    between = Counter((gone.source, stays.source, copy.because) for copy, gone, stays in pairs)
    unnamed = [gone for _, gone, stays in pairs if _identity(gone) and not _identity(stays)]
    removed = [
        {"id": copy.removed, "kept": copy.kept, "because": copy.because, "likeness": round(copy.likeness, 4)} for copy in copies
    ]
    return {
        "documents": len(every),
        "kept": len(every) - len(copies),
        "between": [
            {"removed_from": a, "kept_in": b, "because": why, "documents": count}
            for (a, b, why), count in sorted(between.items())
        ],
        "with_other_words": sum(gone.text != stays.text for _, gone, stays in pairs if gone.image is not None),
        "identity_lost": len(unnamed),
        "removed": removed,
    }


def _tell(report: Mapping[str, Any], file: Path) -> None:
    if report["removed"]:
        log.info("%d of %d documents repeat an earlier one (%s):", len(report["removed"]), report["documents"], file)
    for row in report["between"]:
        where = f"{row['removed_from'] or 'no source'} repeats {row['kept_in'] or 'no source'}"
        log.info("    %s: %d, %s", where, row["documents"], row["because"])
    if report["with_other_words"]:
        log.info("    %d of these pictures had other words than the one that stays", report["with_other_words"])
    if report["images_unread"]:
        log.warning("%d images could not be read and were compared with none; see the verb check", report["images_unread"])
    if report["identity_lost"]:
        log.warning(
            "%d removed documents name a patient or study, and the ones that stay do not, so the leak rule cannot keep those "
            "from their own patient's questions: put the tables that name patients first in DistinctCorpus.tables",
            report["identity_lost"],
        )


def _identity(document: Document) -> bool:
    return document.patient_id is not None or document.study_id is not None


def _state(path: str) -> str:
    try:
        found = os.stat(path)  # noqa: PTH116  (of many files)
    except (OSError, ValueError):
        return f"{path}\tmissing"
    return f"{path}\t{found.st_size}\t{found.st_mtime_ns}"
