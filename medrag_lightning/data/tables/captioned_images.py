"""A folder of pictures with captions as evidence (MIRA, image knowledge base): captions in one file, or beside each picture.

Keys of the caption file (CSV, TSV, JSON, JSONL, parquet), or of ``scan.json`` beside ``scan.png``:

| key | | meaning |
|---|---|---|
| `image` | required in the caption file | the picture, relative to the folder |
| `caption` | required | its caption |
| `patient_id`, `study_id` | optional | for the leak rule; the data set's name is put before them |
| `modality`, `license`, `url` | optional | kept with the document |

Without JSON, ``scan.txt`` beside ``scan.png`` is the caption alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from medrag_lightning.data.pages.section import one_line
from medrag_lightning.data.row_files import read_rows
from medrag_lightning.data.rows import Row, misspelt_key, parse_rows
from medrag_lightning.data.tables.image_folder import SUFFIXES, ImageFolder
from medrag_lightning.data.tables.our_jsonl import check_fields, rename, scoped
from medrag_lightning.records import Document, Query

KEYS = ("image", "caption", "patient_id", "study_id", "modality", "license", "url")
BESIDE = (".txt", ".json")
MAX_CAPTION_BYTES = 1 << 20
log = logging.getLogger(__name__)


class CaptionedImages:
    """Evidence from pictures and their captions (see the module's docstring). It asks nothing.

    A document is called ``NAME-FILE``, the file relative to the folder. Pictures are opened as every image is, in the evidence
    store and in a question: upright by their EXIF, grey, palettes and transparency as RGB, so that copies of one picture find
    each other whatever they are saved as.

    Args:
        folder: of the pictures; folders inside it are read, too, where captions stand beside them.
        captions: the caption file, relative to the folder; null where each picture has its own.
        fields: where the caption file's keys have other names: our key to the file's key.
        without_caption: what is done with a picture that has none: ``error``, or ``keep`` it, to be found by its image alone.
        license: of pictures that name none.
        name: of the data set, by default the name of the folder.
    """

    def __init__(
        self,
        folder: str,
        captions: str | None = None,
        fields: dict[str, str] | None = None,
        without_caption: Literal["error", "keep"] = "error",
        license: str = "",
        name: str | None = None,
    ) -> None:
        if captions is None and fields:
            raise ValueError("fields would be ignored: captions stand beside the pictures; name the caption file")
        if without_caption not in ("error", "keep"):
            raise ValueError(f"without_caption must be error or keep, got {without_caption!r}")
        self.images = ImageFolder.at(folder, check=True)
        self.captions = None if captions is None else self.images.root / captions
        self.fields, self.without_caption, self.license = check_fields(fields, KEYS), without_caption, license
        self.name = name or self.images.root.name
        self._documents: list[Document] | None = None

    def queries(self) -> list[Query]:
        """None: captions ask nothing."""
        return []

    def documents(self) -> list[Document]:
        """One document a picture, in the order of the caption file, or of the pictures' names.

        Raises:
            ValueError: lists every picture without a caption, caption without a picture and unreadable caption.
        """
        if self._documents is None:
            rows = self._beside() if self.captions is None else read_rows(self.captions)
            self._documents = parse_rows(rows, self._parse, type(self).__name__)
            if unknown := sum(not document.license for document in self._documents):
                log.warning("%s: %d of %d pictures name no licence", self.images.root, unknown, len(self._documents))
            if silent := sum(not document.text for document in self._documents):
                log.warning("%s: %d of %d pictures have no caption", self.images.root, silent, len(self._documents))
        return list(self._documents)

    def roots(self) -> list[Path]:
        """The folder."""
        return [self.images.root]

    def _beside(self) -> Iterator[Row]:
        """A row for each picture with what stands beside it, and one for each caption whose picture is not there."""
        root = self.images.root
        if not root.is_dir():
            raise ValueError(f"{root}: no such folder")
        files = sorted(path for path in root.rglob("*") if path.is_file())
        pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
        if not pictures:
            raise ValueError(f"{root}: there are no pictures in it ({', '.join(SUFFIXES)})")
        told = {path: [path.with_suffix(kind) for kind in BESIDE if path.with_suffix(kind).is_file()] for path in pictures}
        for path, captions in told.items():
            yield self._row(path, captions)
        taken = {caption for captions in told.values() for caption in captions}
        for path in files:
            if path.suffix.lower() in BESIDE and path not in taken:
                yield Row(path, 1, problem=f"a caption without its picture: no {path.stem} with {', '.join(SUFFIXES)}")

    def _row(self, path: Path, captions: list[Path]) -> Row:
        image = {"image": path.relative_to(self.images.root).as_posix()}
        if not captions:
            return Row(path, 1, image)
        if len(captions) > 1:
            return Row(path, 1, problem=f"it has two captions, {captions[0].name} and {captions[1].name}; remove one")
        (file,) = captions
        if file.stat().st_size > MAX_CAPTION_BYTES:
            return Row(file, 1, problem=f"more than {MAX_CAPTION_BYTES >> 20} MiB are too much for a caption")
        if file.suffix.lower() == ".txt":
            try:
                return Row(file, 1, {**image, "caption": file.read_text(encoding="utf-8-sig")})
            except UnicodeDecodeError as error:
                return Row(file, 1, problem=f"not UTF-8 (byte {error.object[error.start]:#04x}); save the file as UTF-8")
        return _object(file, image)

    def _parse(self, raw: Row) -> list[Document]:
        row = rename(raw, self.fields, KEYS)
        if misspelt := misspelt_key(row, KEYS):
            raise ValueError(misspelt)
        name, caption = row.text("image"), one_line(row.text_or_none("caption") or "")
        if not caption and self.without_caption == "error":
            raise ValueError(f"picture {name!r} has no caption; write one, or keep such pictures: without_caption: keep")
        image = self.images.ref(name)
        where = Path(image.path).relative_to(self.images.root).as_posix()
        return [
            Document(
                id=f"{self.name}-{where}" + ("" if image.array is None else f"#{image.array}/{image.index}"),
                text=caption,
                image=image,
                patient_id=scoped(self.name, row.text_or_none("patient_id")),
                study_id=scoped(self.name, row.text_or_none("study_id")),
                modality=row.text_or_none("modality"),
                source=self.name,
                license=row.text_or_none("license") or self.license,
                origin=row.text_or_none("url") or where,
            )
        ]


def _object(file: Path, image: dict[str, str]) -> Row:
    """What a JSON file beside a picture says."""
    try:
        told = json.loads(file.read_text(encoding="utf-8-sig"), parse_constant=lambda _: None)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        return Row(file, line, problem=f"not valid JSON: {error}")
    if not isinstance(told, dict):
        return Row(file, 1, problem=f"expected a JSON object, got a {type(told).__name__}")
    return Row(file, 1, {**told, **image})
