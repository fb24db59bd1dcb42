"""PubMedQA (Jin et al., EMNLP 2019) as JSONL: a yes/no/maybe question about each abstract, which is known to answer it.

| key | | meaning |
|---|---|---|
| `id` | required | unique in the file |
| `question` | required | its text |
| `gold_doc` | required | id of the abstract, as the text corpus calls it |
| `answer` | required | `yes`, `no` or `maybe` |
| `split` | optional | taken where `val_share` and `test_share` are null |

Other keys (`long_answer`, `license`) are left alone.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from medrag_lightning.data.row_files import read_rows
from medrag_lightning.data.rows import Row, parse_rows
from medrag_lightning.records import AnswerType, Document, Query, Split

CHOICES = ("yes", "no", "maybe")


class PubMedQa:
    """Closed questions without an image, each with the document that answers it (`Query.relevant_ids`). No evidence of its own.

    Add the abstracts as a `TextCorpus` whose `chunk_chars` keeps each of them whole; of a text in several chunks the verb
    `reranker` takes all for right.

    Args:
        path: the file.
        val_share, test_share: of the questions, dealt by a hash of their ids: the published training half has no test part.
            null for both: as the file's `split` says.
    """

    def __init__(self, path: str, val_share: float | None = 0.2, test_share: float | None = 0.2) -> None:
        if (val_share is None) != (test_share is None):
            raise ValueError("val_share and test_share are numbers, or both null (the file's own split)")
        self.path = Path(path)
        self.shares = None if val_share is None or test_share is None else (val_share, test_share)
        if self.shares is not None and not (min(self.shares) >= 0 and sum(self.shares) < 1):
            raise ValueError(f"val_share and test_share must be at least 0, and below 1 together, got {self.shares}")
        self._queries: list[Query] | None = None

    def queries(self) -> list[Query]:
        """Every question, in file order."""
        if self._queries is None:
            self._queries = parse_rows(read_rows(self.path), self._parse, type(self).__name__)
        return list(self._queries)

    def documents(self) -> list[Document]:
        """None: the abstracts are a corpus of their own."""
        return []

    def roots(self) -> list[Path]:
        """None: there are no images."""
        return []

    def _parse(self, row: Row) -> list[Query]:
        name, answer = row.text("id"), row.text("answer").lower()
        if answer not in CHOICES:
            raise ValueError(f"key 'answer' is {answer!r}; expected yes, no or maybe")
        split = row.split("split") if self.shares is None else _dealt(name, *self.shares)
        query = Query(
            id=name,
            question=row.text("question"),
            answer=answer,
            choices=CHOICES,
            answer_type=AnswerType.CLOSED,
            split=split,
            source="PubMedQA",
            relevant_ids=(row.text("gold_doc"),),
        )
        return [query]


def _dealt(name: str, val_share: float, test_share: float) -> Split:
    """The split of a question: a number in [0, 1) that its id gives."""
    place = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32
    return Split.TEST if place < test_share else Split.VAL if place < test_share + val_share else Split.TRAIN
