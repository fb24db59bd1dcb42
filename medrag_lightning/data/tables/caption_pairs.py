"""Figures with captions: ROCO, ROCOv2, PMC-OA and files like theirs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from medrag_lightning.data.row_files import read_rows
from medrag_lightning.data.rows import Row, parse_rows
from medrag_lightning.data.tables.image_folder import ImageFolder
from medrag_lightning.records import Document, Query

log = logging.getLogger(__name__)


class CaptionPairs:
    """Evidence from a caption file (CSV, TSV, JSON, JSONL, parquet) and an image folder; it asks nothing.

    - *ROCOv2*: `train_captions.csv`, columns ``ID`` and ``Caption``, images ``train/{ID}.jpg`` (the defaults).
    - *ROCO*: `radiology/train/captions.txt`, tab separated without a header: ``columns: [ID, Caption]``, images
      ``images/{ID}.jpg``; or `radiologytraindata.csv` with ``name_column: name``, ``caption_column: caption``.
    - *PMC-OA*: `pmc_oa.jsonl`, ``name_column: image``, ``caption_column: caption``; name the split's own file.

    Args:
        path: the caption file. Name files of the training split only: captions of test figures are test answers elsewhere.
        image_root: the image folder.
        name_column: the image's name; it is also the document's id, after the data set's name.
        caption_column: the caption.
        image_extension: added to names without an image extension.
        columns: column names of a CSV or TSV file without a header line.
        dataset: name of the data set, put before ids; by default the name of the file's folder.
        modality: where all figures have the same.
        license: of all items.
        missing_images: ``error``, or ``skip`` rows without their image (both ROCO and PMC-OA are often downloaded in part); how
            many are skipped is logged. ``ignore`` looks at no files at all.
    """

    def __init__(
        self,
        path: str,
        image_root: str,
        name_column: str = "ID",
        caption_column: str = "Caption",
        image_extension: str = ".jpg",
        columns: list[str] | None = None,
        dataset: str | None = None,
        modality: str | None = None,
        license: str = "",
        missing_images: Literal["error", "skip", "ignore"] = "error",
    ) -> None:
        self.path = Path(path)
        self.name_column, self.caption_column, self.columns = name_column, caption_column, columns
        self.dataset = dataset or self.path.resolve().parent.name
        self.modality, self.license, self.missing_images = modality, license, missing_images
        self.images = ImageFolder.at(image_root, missing_images == "error", image_extension)
        self._documents: list[Document] | None = None
        self._skipped = 0

    def queries(self) -> list[Query]:
        """None: captions ask nothing."""
        return []

    def documents(self) -> list[Document]:
        """One document a row, in file order."""
        if self._documents is None:
            self._skipped = 0
            self._documents = parse_rows(read_rows(self.path, self.columns), self._parse, type(self).__name__)
            if self._skipped:
                log.warning("%s: %d rows skipped, their images are not under %s", self.path, self._skipped, self.images.root)
        return list(self._documents)

    def roots(self) -> list[Path]:
        """The image folder."""
        return [self.images.root]

    def _parse(self, row: Row) -> list[Document]:
        name, caption = row.text(self.name_column), " ".join(row.text(self.caption_column).split())
        image = self.images.ref(name)
        if self.missing_images == "skip" and not Path(image.path).is_file():
            self._skipped += 1
            return []
        return [
            Document(
                id=f"{self.dataset}-{name}",
                text=caption,
                image=image,
                modality=self.modality,
                source=self.dataset,
                license=self.license,
            )
        ]
