"""Our own two files: questions (`JsonlQueries`) and evidence (`JsonlCorpus`), one JSON object a line.

A line of a **questions** file:

| key | | meaning |
|---|---|---|
| `id` | required | unique in the file |
| `question` | required | its text |
| `answer` | optional | the gold answer; left out where it is unknown |
| `choices` | optional | list of the closed answers, in order |
| `answer_type` | optional | `closed` (with choices, or answered yes or no) or `open`; by default closed if there are choices |
| `image` | optional | file relative to the image folder, or `arrays.npz#array/index` |
| `split` | required, unless the table sets it | `train`, `val` or `test` |
| `patient_id`, `study_id` | optional | for the leak rule; the data set's name is put before them |
| `modality` | optional | such as `CT` |
| `history` | optional | the turns before this question in its dialogue, a list of [question, answer], first turn first; \
every turn of a dialogue then needs the same `study_id`, `patient_id` or image, so that none is evidence for another |

A line of a **corpus** file: `id` (required), `text` and/or `image`, and optionally `patient_id`, `study_id`, `modality`,
`source`, `license`, `split`.

Other keys are left alone, unless one looks like a misspelling of a known key that the row lacks (`patient` for `patient_id`):
that is an error, because a leak rule that silently knows no patients protects nobody. Files may also be JSON lists, CSV, TSV
or parquet with the same columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medrag_lightning.data.dialogues import apart, read_history
from medrag_lightning.data.row_files import read_rows
from medrag_lightning.data.rows import Row, misspelt_key, parse_rows, read_split
from medrag_lightning.data.tables.answers import YES_NO, answered_documents
from medrag_lightning.data.tables.image_folder import ImageFolder
from medrag_lightning.records import AnswerType, Document, Query, Split

QUERY_KEYS = (
    *("id", "question", "answer", "choices", "answer_type"),
    *("image", "split", "patient_id", "study_id", "modality", "history"),
)
CORPUS_KEYS = ("id", "image", "text", "patient_id", "study_id", "modality", "source", "license", "split")
EVIDENCE_TEXT = "question: {question} answer: {answer}"


class JsonlQueries:
    """Questions in our own format (see the module's docstring). Answered training questions can serve as evidence.

    Args:
        path: the file.
        image_root: the folder of the images; by default the file's own folder.
        fields: where the file's keys have other names: our key to the file's key.
        split: the split of every row, for files without a `split` key.
        dataset: name of the data set, put before patient and study ids (``name:id``) so that patient 282 of two hospitals is
            two patients. By default the name of the file's folder. Give the same name to every table of one hospital.
        evidence_text: what a document says; ``{question}`` and ``{answer}`` are filled in.
        check_images: whether missing image files are errors when the table is read.
    """

    def __init__(
        self,
        path: str,
        image_root: str | None = None,
        fields: dict[str, str] | None = None,
        split: str | None = None,
        dataset: str | None = None,
        evidence_text: str = EVIDENCE_TEXT,
        check_images: bool = True,
    ) -> None:
        self.path = Path(path)
        self.fields = check_fields(fields, QUERY_KEYS)
        self.split = None if split is None else read_split("split", split)
        self.dataset = dataset or self.path.resolve().parent.name
        self.evidence_text = evidence_text
        self.images = ImageFolder.at(image_root or self.path.parent, check_images)
        self._queries: list[Query] | None = None

    def queries(self) -> list[Query]:
        """Every row, in file order."""
        if self._queries is None:
            self._queries = parse_rows(read_rows(self.path), self._parse, type(self).__name__)
            if fault := apart(self._queries):
                raise ValueError(f"{self.path}: {fault}")
        return list(self._queries)

    def documents(self) -> list[Document]:
        """The answered training questions."""
        return answered_documents(self.queries(), self.evidence_text)

    def roots(self) -> list[Path]:
        """The image folder."""
        return [self.images.root]

    def _parse(self, raw: Row) -> list[Query]:
        row = rename(raw, self.fields, QUERY_KEYS)
        answer, choices = row.text_or_none("answer"), row.texts("choices")
        kind = row.text_or_none("answer_type")
        if kind not in (None, *AnswerType):
            raise ValueError(f"key 'answer_type' is {kind!r}; expected closed or open")
        if kind == AnswerType.CLOSED and not choices and answer is not None and answer.lower() in YES_NO:
            answer, choices = answer.lower(), YES_NO
        image = row.text_or_none("image")
        return [
            Query(
                id=row.text("id"),
                question=row.text("question"),
                image=None if image is None else self.images.ref(image),
                answer=answer,
                choices=choices,
                answer_type=AnswerType(kind) if kind else AnswerType.CLOSED if choices else AnswerType.OPEN,
                split=self._split(row),
                patient_id=scoped(self.dataset, row.text_or_none("patient_id")),
                study_id=scoped(self.dataset, row.text_or_none("study_id")),
                modality=row.text_or_none("modality"),
                source=self.dataset,
                history=read_history(row),
            )
        ]

    def _split(self, row: Row) -> Split:
        if self.split is None:
            if "split" not in row.values:
                raise ValueError("key 'split' is missing; add it, or set split: for the whole file")
            return row.split("split")
        if row.text_or_none("split") is not None and row.split("split") is not self.split:
            raise ValueError(f"the row says split {row.text('split')!r}, the table says {self.split}; remove one of them")
        return self.split


class JsonlCorpus:
    """Evidence in our own format (see the module's docstring): pairs of image and text, or only one of the two.

    Args:
        path: the file.
        image_root: the folder of the images; by default the file's own folder.
        fields: where the file's keys have other names: our key to the file's key, such as ``patient_id: patient``.
        splits: which splits may serve as evidence. Required when the rows carry a `split`, so that nobody puts test items into
            the evidence without saying so; refused when they do not.
        dataset: name of the data set, put before patient and study ids; see `JsonlQueries`.
        check_images: whether missing image files are errors when the table is read.
    """

    def __init__(
        self,
        path: str,
        image_root: str | None = None,
        fields: dict[str, str] | None = None,
        splits: list[str] | None = None,
        dataset: str | None = None,
        check_images: bool = True,
    ) -> None:
        self.path = Path(path)
        self.fields = check_fields(fields, CORPUS_KEYS)
        self.splits = None if splits is None else frozenset(read_split("splits", name) for name in splits)
        self.dataset = dataset or self.path.resolve().parent.name
        self.images = ImageFolder.at(image_root or self.path.parent, check_images)
        self._documents: list[Document] | None = None

    def queries(self) -> list[Query]:
        """None: a corpus asks nothing."""
        return []

    def documents(self) -> list[Document]:
        """Every row of the chosen splits, in file order."""
        if self._documents is None:
            self._documents = parse_rows(read_rows(self.path), self._parse, type(self).__name__)
        return list(self._documents)

    def roots(self) -> list[Path]:
        """The image folder."""
        return [self.images.root]

    def _parse(self, raw: Row) -> list[Document]:
        row = rename(raw, self.fields, CORPUS_KEYS)
        image = row.text_or_none("image")
        document = Document(
            id=row.text("id"),
            text=row.text_or_none("text") or "",
            image=None if image is None else self.images.ref(image),
            patient_id=scoped(self.dataset, row.text_or_none("patient_id")),
            study_id=scoped(self.dataset, row.text_or_none("study_id")),
            modality=row.text_or_none("modality"),
            source=row.text_or_none("source") or self.dataset,
            license=row.text_or_none("license") or "",
        )
        return [document] if self._wanted(row) else []

    def _wanted(self, row: Row) -> bool:
        if "split" in row.values and self.splits is None:
            raise ValueError(
                f"the row carries split {row.values['split']!r}; say which splits may serve as evidence, "
                "such as splits: [train]"
            )
        return self.splits is None or row.split("split") in self.splits


def scoped(dataset: str, name: str | None) -> str | None:
    """``dataset:name``, so that ids of two data sets never collide; None stays None."""
    return None if name is None else f"{dataset}:{name}"


def check_fields(fields: dict[str, str] | None, known: Sequence[str]) -> dict[str, str]:
    """The mapping of our keys to a file's keys; ValueError for a key that is not ours."""
    for key in fields or {}:
        if key not in known:
            raise ValueError(f"fields: unknown key {key!r}; ours are {', '.join(known)}")
    return dict(fields or {})


def rename(row: Row, fields: dict[str, str], known: Sequence[str]) -> Row:
    """The row under our keys. ValueError for a mapped key that it lacks, or an unknown key that looks like one of ours."""
    if not fields:
        values = dict(row.values)
    else:
        taken = set(fields.values())
        values = {key: value for key, value in row.values.items() if key not in taken and key not in fields}
        for ours, theirs in fields.items():
            if theirs not in row.values:
                raise ValueError(f"fields maps {ours!r} to {theirs!r}, but the row has no key {theirs!r}")
            values[ours] = row.values[theirs]
    renamed = Row(row.path, row.line, values)
    misspelt = misspelt_key(renamed, known)
    if misspelt:
        raise ValueError(misspelt)
    return renamed
