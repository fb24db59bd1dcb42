"""SLAKE (Liu et al., ISBI 2021): a bilingual radiology question set."""

from __future__ import annotations

import logging
from itertools import chain
from pathlib import Path

from medrag_lightning.data.row_files import read_rows
from medrag_lightning.data.rows import Row, parse_rows
from medrag_lightning.data.tables.answers import answered_documents, closed_answer, log_closed
from medrag_lightning.data.tables.image_folder import ImageFolder
from medrag_lightning.data.tables.our_jsonl import EVIDENCE_TEXT, scoped
from medrag_lightning.data.tables.vqa_rad import CLOSED_MARKS
from medrag_lightning.records import AnswerType, Document, Query, Split

FILES = {"train.json": Split.TRAIN, "validate.json": Split.VAL, "test.json": Split.TEST}
LANGUAGES = ("en", "zh")

log = logging.getLogger(__name__)


class Slake:
    """SLAKE 1.0 as published: `train.json`, `validate.json`, `test.json` and `imgs/xmlab*/source.jpg`.

    An image (`img_id`) counts as a study: its questions never serve as evidence for each other. Which questions are closed, and
    with what choices, is decided by the rule in `answers.py`.

    Args:
        root: the folder of the three files.
        language: ``en`` or ``zh``; None for both. Questions of the other language are counted in the log.
        evidence_text: what a document says; ``{question}`` and ``{answer}`` are filled in.
        check_images: whether missing image files are errors when the table is read.
    """

    def __init__(
        self,
        root: str,
        language: str | None = "en",
        evidence_text: str = EVIDENCE_TEXT,
        check_images: bool = True,
    ) -> None:
        if language not in (None, *LANGUAGES):
            raise ValueError(f"language must be en, zh or null, got {language!r}")
        self.root, self.language, self.evidence_text = Path(root), language, evidence_text
        self.images = ImageFolder.at(self.root / "imgs", check_images)
        self._queries: list[Query] | None = None
        self._marked_closed: list[str] = []
        self._other_language = 0

    def queries(self) -> list[Query]:
        """The questions of train, validate and test, in this order."""
        if self._queries is None:
            self._marked_closed, self._other_language = [], 0
            rows = chain.from_iterable(read_rows(self.root / name) for name in FILES)
            self._queries = parse_rows(rows, self._parse, type(self).__name__)
            log_closed(type(self).__name__, self._queries, self._marked_closed)
            if self._other_language:
                log.info("Slake: %d questions are not in language %r", self._other_language, self.language)
        return list(self._queries)

    def documents(self) -> list[Document]:
        """The training questions with their answers and images."""
        return answered_documents(self.queries(), self.evidence_text)

    def roots(self) -> list[Path]:
        """The image folder."""
        return [self.images.root]

    def _parse(self, row: Row) -> list[Query]:
        language = row.text("q_lang")
        if language not in LANGUAGES:
            raise ValueError(f"key 'q_lang' is {language!r}; expected en or zh")
        if self.language not in (None, language):
            self._other_language += 1
            return []
        name = f"slake-{row.text('qid')}"
        mark = row.text("answer_type").lower()
        if mark not in CLOSED_MARKS:
            raise ValueError(f"key 'answer_type' is {mark!r}; expected closed or open")
        choices, answer = closed_answer(row.text("question"), row.text("answer"), CLOSED_MARKS[mark])
        if CLOSED_MARKS[mark]:
            self._marked_closed.append(name)
        return [
            Query(
                id=name,
                question=row.text("question"),
                image=self.images.ref(row.text("img_name")),
                answer=answer,
                choices=choices,
                answer_type=AnswerType.CLOSED if choices else AnswerType.OPEN,
                split=FILES[row.path.name],
                study_id=scoped("slake", row.text("img_id")),
                modality=row.text_or_none("modality"),
                source="slake",
            )
        ]
