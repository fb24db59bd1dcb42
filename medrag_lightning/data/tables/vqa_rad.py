"""VQA-RAD (Lau et al., Scientific Data 2018): the official JSON, or a cleaned JSONL copy of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from medrag_lightning.data.row_files import read_rows
from medrag_lightning.data.rows import Row, parse_rows
from medrag_lightning.data.tables.answers import answered_documents, closed_answer, log_closed
from medrag_lightning.data.tables.image_folder import ImageFolder
from medrag_lightning.data.tables.our_jsonl import EVIDENCE_TEXT, scoped
from medrag_lightning.records import AnswerType, Document, Query, Split

CLOSED_MARKS = {"closed": True, "open": False}


class VqaRad:
    """Radiology questions; a patient is a MedPix case.

    Two layouts are told apart by their keys:

    - *official* (`VQA_RAD Dataset Public.json`): `qid`, `image_name`, `image_case_url`, `question`, `answer`, `answer_type`
      (``OPEN``, ``CLOSED``, ``"CLOSED "``), `phrase_type`; rows whose phrase type starts with ``test`` are the test split. The
      same image is asked about on both sides of the official split, so its test numbers are not those of unseen patients.
    - *JSONL*: `id`, `image` (relative to the file), `question`, `answer`, `answer_type`, `case`, and a split key.

    Which questions are closed, and with what choices, is decided by the rule in `answers.py`.

    Args:
        path: the JSON or JSONL file.
        image_root: the image folder; by default the file's folder (JSONL), or `VQA_RAD Image Folder` beside it (official).
        split_key: for JSONL: which key holds the split (``split`` is case-disjoint, ``official_split`` is the authors').
        val_share: for the official JSON, which has no validation split: the share of training *images* (with all their
            questions, by a hash of the image name) that is set apart for validation.
        evidence_text: what a document says; ``{question}`` and ``{answer}`` are filled in.
        check_images: whether missing image files are errors when the table is read.
    """

    def __init__(
        self,
        path: str,
        image_root: str | None = None,
        split_key: str = "split",
        val_share: float = 0.0,
        evidence_text: str = EVIDENCE_TEXT,
        check_images: bool = True,
    ) -> None:
        if not 0.0 <= val_share < 1.0:
            raise ValueError(f"val_share must lie in [0, 1), got {val_share}")
        self.path = Path(path)
        self.split_key, self.val_share, self.evidence_text = split_key, val_share, evidence_text
        official_folder = self.path.parent / "VQA_RAD Image Folder"
        self.images = ImageFolder.at(
            image_root or (official_folder if official_folder.is_dir() else self.path.parent), check_images
        )
        self._queries: list[Query] | None = None
        self._marked_closed: list[str] = []

    def queries(self) -> list[Query]:
        """Every question, in file order."""
        if self._queries is None:
            self._marked_closed = []
            self._queries = parse_rows(read_rows(self.path), self._parse, type(self).__name__)
            log_closed(type(self).__name__, self._queries, self._marked_closed)
        return list(self._queries)

    def documents(self) -> list[Document]:
        """The training questions with their answers and images."""
        return answered_documents(self.queries(), self.evidence_text)

    def roots(self) -> list[Path]:
        """The image folder."""
        return [self.images.root]

    def _parse(self, row: Row) -> list[Query]:
        official = "phrase_type" in row.values or "image_name" in row.values
        name = f"vqarad-{row.text('qid')}" if official else row.text("id")
        image = row.text("image_name" if official else "image")
        mark = row.text("answer_type").lower()
        if mark not in CLOSED_MARKS:
            raise ValueError(f"key 'answer_type' is {mark!r}; expected closed or open")
        question = " ".join(row.text("question").split())
        choices, answer = closed_answer(question, row.text("answer"), CLOSED_MARKS[mark])
        if CLOSED_MARKS[mark]:
            self._marked_closed.append(name)
        return [
            Query(
                id=name,
                question=question,
                image=self.images.ref(image),
                answer=answer,
                choices=choices,
                answer_type=AnswerType.CLOSED if choices else AnswerType.OPEN,
                split=self._official_split(row, image) if official else self._split(row),
                patient_id=scoped("vqa_rad", row.text_or_none("image_case_url" if official else "case")),
                source="vqa_rad",
            )
        ]

    def _split(self, row: Row) -> Split:
        if self.val_share:
            raise ValueError("val_share is only for the official JSON; this file has its own splits, so remove it")
        return row.split(self.split_key)

    def _official_split(self, row: Row, image: str) -> Split:
        if self.split_key != "split":
            raise ValueError(f"split_key {self.split_key!r} is only for JSONL; the official JSON is split by phrase_type")
        phrase = row.text("phrase_type").lower()
        if phrase.startswith("test"):
            return Split.TEST
        if phrase not in ("freeform", "para"):
            raise ValueError(f"key 'phrase_type' is {phrase!r}; expected freeform, para, test_freeform or test_para")
        draw = int.from_bytes(hashlib.sha256(image.encode()).digest()[:8], "big") / 2**64
        return Split.VAL if draw < self.val_share else Split.TRAIN
