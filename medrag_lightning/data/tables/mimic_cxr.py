"""MIMIC-CXR reports with the images of MIMIC-CXR-JPG (Johnson et al., Scientific Data 2019); credentialed: bring your own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from medrag_lightning.data.row_files import read_rows
from medrag_lightning.data.rows import BadRowsError, Row, parse_rows
from medrag_lightning.data.tables.image_folder import ImageFolder
from medrag_lightning.data.tables.our_jsonl import scoped
from medrag_lightning.data.tables.report_sections import joined_sections
from medrag_lightning.records import Document, Query, Split

METADATA, SPLIT = "mimic-cxr-2.0.0-metadata.csv", "mimic-cxr-2.0.0-split.csv"

log = logging.getLogger(__name__)


class MimicCxrReports:
    """One document for each image of the wanted views: the image and the wanted sections of its study's report.

    Layout: `root` holds `mimic-cxr-2.0.0-metadata.csv` and `-split.csv` (plain or .gz) and images
    ``files/p10/p10000032/s50414267/{dicom_id}.jpg``; `reports_root` holds ``files/p10/p10000032/s50414267.txt``.

    Args:
        root: folder of MIMIC-CXR-JPG.
        reports_root: folder of the reports; by default `root`.
        views: values of ``ViewPosition`` to keep; null for all. JOMED keeps PA and AP.
        sections: sections of the report, in order.
        without_sections: what to do with a study whose report has none of them (many have no headings): ``skip`` it, counted in
            the log; take the ``whole`` report; or ``error``.
        question: with a question, `queries` asks it of every image of every split, and the text is the answer.
        check_images: whether missing image files are errors when the table is read.
    """

    def __init__(
        self,
        root: str,
        reports_root: str | None = None,
        views: tuple[str, ...] | None = ("PA", "AP"),
        sections: tuple[str, ...] = ("findings", "impression"),
        without_sections: Literal["skip", "whole", "error"] = "skip",
        question: str | None = None,
        check_images: bool = True,
    ) -> None:
        self.root = Path(root).expanduser()
        self.reports = Path(reports_root).expanduser() if reports_root else self.root
        self.views, self.sections = views, sections
        self.without_sections, self.question = without_sections, question
        self.images = ImageFolder.at(self.root, check_images)
        self._items: list[tuple[Split, Document]] | None = None

    def queries(self) -> list[Query]:
        """The question for every image, with the report's text as answer; none without a question."""
        if self.question is None:
            return []
        return [
            Query(
                id=item.id,
                question=self.question,
                image=item.image,
                answer=item.text,
                split=split,
                patient_id=item.patient_id,
                study_id=item.study_id,
                modality=item.modality,
                source=item.source,
            )
            for split, item in self._read()
        ]

    def documents(self) -> list[Document]:
        """The images of the training split with their reports, in the order of the metadata file."""
        return [item for split, item in self._read() if split is Split.TRAIN]

    def roots(self) -> list[Path]:
        """The folder of MIMIC-CXR-JPG."""
        return [self.images.root]

    def _read(self) -> list[tuple[Split, Document]]:
        if self._items is None:
            splits = self._splits()
            texts: dict[str, str] = {}
            without: set[str] = set()
            other_views = 0

            def parse(row: Row) -> list[Document]:
                nonlocal other_views
                if self.views is not None and (row.text_or_none("ViewPosition") or "") not in self.views:
                    other_views += 1
                    return []
                return self._parse(row, splits, texts, without)

            documents = parse_rows(read_rows(_plain_or_gz(self.root / METADATA)), parse, type(self).__name__)
            self._items = [(splits[document.id], document) for document in documents]
            log.info("MimicCxrReports: %d images, %d of other views than %s", len(documents), other_views, self.views)
            if without:
                listed = ", ".join(sorted(without)[:5])
                log.warning("MimicCxrReports: %d studies skipped, no %s in the report: %s", len(without), self.sections, listed)
        return self._items

    def _splits(self) -> dict[str, Split]:
        splits: dict[str, Split] = {}
        faults: list[str] = []
        for row in read_rows(_plain_or_gz(self.root / SPLIT)):
            try:
                if row.problem:
                    raise ValueError(row.problem)
                splits[row.text("dicom_id")] = row.split("split")
            except ValueError as error:
                faults.append(f"{row.where}: {error}")
        if faults:
            raise BadRowsError(type(self).__name__, faults)
        return splits

    def _parse(self, row: Row, splits: dict[str, Split], texts: dict[str, str], without: set[str]) -> list[Document]:
        name, subject, study = row.text("dicom_id"), row.text("subject_id"), row.text("study_id")
        if name not in splits:
            raise ValueError(f"dicom_id {name!r} is not in {SPLIT}; the two files are of different releases")
        folder = f"files/p{subject[:2]}/p{subject}/s{study}"
        if study not in texts:
            texts[study] = self._report(folder)
        if not texts[study]:
            without.add(study)
            return []
        return [
            Document(
                id=name,
                text=texts[study],
                image=self.images.ref(f"{folder}/{name}.jpg"),
                patient_id=scoped("mimic_cxr", subject),
                study_id=scoped("mimic_cxr", study),
                modality="X-ray",
                source="mimic_cxr",
            )
        ]

    def _report(self, folder: str) -> str:
        """The wanted sections of a study's report; empty when it is to be skipped."""
        path = self.reports / f"{folder}.txt"
        if not path.is_file():
            raise ValueError(f"there is no report {path}; set reports_root to the folder that holds files/")
        try:
            report = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"report {path} is not UTF-8: {error.reason}") from error
        text = joined_sections(report, self.sections)
        if not text and self.without_sections == "error":
            raise ValueError(f"report {path} has none of the sections {self.sections}; see without_sections")
        if not text and self.without_sections == "whole":
            return " ".join(report.split())
        return text


def _plain_or_gz(path: Path) -> Path:
    return path if path.is_file() or not path.with_name(path.name + ".gz").is_file() else path.with_name(path.name + ".gz")
