"""IU X-Ray in the form that R2Gen made of it (Chen et al., EMNLP 2020): `annotation.json` and an image folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from medrag_lightning.data.row_files import read_rows
from medrag_lightning.data.rows import Row, parse_rows, read_split
from medrag_lightning.data.tables.image_folder import ImageFolder
from medrag_lightning.data.tables.our_jsonl import scoped
from medrag_lightning.records import Document, Query, Split


class IuXray:
    """One document for each image of a training study, with the study's report.

    `annotation.json` is an object of the lists ``train``, ``val`` and ``test``, whose rows have `id` (``CXR2384_IM-0942``),
    `report` and `image_path` (usually a frontal and a lateral image). The patient is the part before ``_``.

    Args:
        annotation: the file.
        image_root: the image folder; by default `images` beside the file.
        images_per_study: ``all``, or only the ``first`` (frontal) image.
        question: with a question, `queries` asks it of every such image of every split, and the report is the answer.
        check_images: whether missing image files are errors when the table is read.
    """

    def __init__(
        self,
        annotation: str,
        image_root: str | None = None,
        images_per_study: Literal["all", "first"] = "all",
        question: str | None = None,
        check_images: bool = True,
    ) -> None:
        self.path = Path(annotation)
        self.images_per_study, self.question = images_per_study, question
        self.images = ImageFolder.at(image_root or self.path.parent / "images", check_images)
        self._items: list[Query] | None = None

    def queries(self) -> list[Query]:
        """The question for every image, with the report as answer; none without a question."""
        return [] if self.question is None else list(self._read())

    def documents(self) -> list[Document]:
        """The images of the training split with their reports, in file order."""
        return [
            Document(
                id=item.id,
                text=item.answer or "",
                image=item.image,
                patient_id=item.patient_id,
                study_id=item.study_id,
                modality=item.modality,
                source=item.source,
            )
            for item in self._read()
            if item.split is Split.TRAIN
        ]

    def roots(self) -> list[Path]:
        """The image folder."""
        return [self.images.root]

    def _read(self) -> list[Query]:
        if self._items is None:
            self._items = parse_rows(read_rows(self.path), self._parse, type(self).__name__)
        return self._items

    def _parse(self, row: Row) -> list[Query]:
        name, report = row.text("id"), " ".join(row.text("report").split())
        split = read_split("the list's name", row.group)
        if row.text_or_none("split") is not None and row.split("split") is not split:
            raise ValueError(f"the row says split {row.text('split')!r}, but it stands in the list {row.group!r}")
        paths = row.texts("image_path")
        if not paths:
            raise ValueError("key 'image_path' is missing or empty; expected a list of image files")
        return [
            Query(
                id=f"iuxray-{name}-{n}",
                question=self.question or "report",
                image=self.images.ref(path),
                answer=report,
                split=split,
                patient_id=scoped("iu_xray", name.split("_")[0]),
                study_id=scoped("iu_xray", name),
                modality="X-ray",
                source="iu_xray",
            )
            for n, path in enumerate(paths if self.images_per_study == "all" else paths[:1])
        ]
