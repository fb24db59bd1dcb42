"""What a system is asked and what it may read: queries, documents, candidates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

REPORTS = "reports"
"""The corpus of all documents with an image, wherever they come from."""

_ARRAY_REF = re.compile(r"^(?P<path>.+\.npz)#(?P<array>\w+)/(?P<index>\d+)$")


class Split(StrEnum):
    """Which part of a data set a query belongs to."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


class AnswerType(StrEnum):
    """`closed`: one of the query's `choices`. `open`: free text."""

    CLOSED = "closed"
    OPEN = "open"


class Channel(StrEnum):
    """What found a candidate: which vectors were compared (query side first, document side second), or what else."""

    IMAGE_TO_IMAGE = "image_to_image"
    IMAGE_TO_TEXT = "image_to_text"
    TEXT_TO_TEXT = "text_to_text"
    TEXT_TO_IMAGE = "text_to_image"
    FUSED = "fused"  # by a learned sum of the similarities above
    LEXICAL = "lexical"  # by the words it shares with the question
    HYBRID = "hybrid"  # by its places in several rankings
    RERANKED = "reranked"  # by a model that read question and text together
    WEB = "web"  # by a search engine, in its order
    GIVEN = "given"  # named by hand or by a generator (oracle and poisoned evidence), not searched

    @property
    def compares_vectors(self) -> bool:
        """Whether its score is the similarity of two vectors, which a source can tell for any document."""
        return self.value in ("image_to_image", "image_to_text", "text_to_text", "text_to_image")


class Regime(StrEnum):
    """What evidence a reader is shown when it is evaluated. Every accuracy stands beside those of `none` and `random`."""

    RETRIEVED = "retrieved"
    NONE = "none"
    RANDOM = "random"
    ORACLE = "oracle"  # the documents that a generated world knows to be relevant
    POISONED = "poisoned"  # the documents that a generated world knows to be misleading


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where one image lies: a file, or one item of an array inside an ``.npz`` file.

    Its text form is ``path`` or ``path.npz#array/index``; `parse` and `str` are inverses.
    """

    path: str
    array: str | None = None
    index: int | None = None

    @classmethod
    def parse(cls, text: str) -> ImageRef:
        """Reads the text form."""
        match = _ARRAY_REF.match(text)
        if match is None:
            return cls(text)
        return cls(match["path"], match["array"], int(match["index"]))

    def __str__(self) -> str:
        return self.path if self.array is None else f"{self.path}#{self.array}/{self.index}"


@dataclass(frozen=True, slots=True)
class Query:
    """One question about one image.

    Attributes:
        id: unique in its data set.
        question: the text of the question.
        image: the patient's image, or None for a question without one.
        answer: the gold answer, or None where it is unknown (prediction).
        choices: the closed answers that may be given, in order; empty for an open question.
        answer_type: closed or open.
        split: train, val or test.
        patient_id, study_id: what the leak rule compares; None where the source does not tell.
        modality: free text such as ``CT``; None where unknown.
        source: the name of the data set.
        need: for generated worlds, the evidence that the question needs (``image``, ``report``, ``either``, ``both``,
            ``none``, ``poisoned``, ``document``, ``image_document``, ``report_document``); None for real data.
        relevant_ids: for generated worlds, the documents that answer the question.
        poison_ids: for generated worlds, the documents that mislead.
        searches: what to ask each corpus for this question, as (name of the corpus, words), from a query generator (HeteroRAG,
            MQG). A corpus that is not named, or whose words are blank, is not searched. None: nobody said, and every corpus is
            asked with the question.
        history: what was asked and answered before in the same dialogue, first turn first; empty for a question that stands
            alone. It is as it was said, in tests too.
        rewritten: a question that says the same without the history, from a `Rewriter`: what is searched with in place of the
            question. A reader still gets the question itself. None: nobody wrote one.
    """

    id: str
    question: str
    image: ImageRef | None = None
    answer: str | None = None
    choices: tuple[str, ...] = ()
    answer_type: AnswerType = AnswerType.OPEN
    split: Split = Split.TRAIN
    patient_id: str | None = None
    study_id: str | None = None
    modality: str | None = None
    source: str = ""
    need: str | None = None
    relevant_ids: tuple[str, ...] = ()
    poison_ids: tuple[str, ...] = ()
    searches: tuple[tuple[str, str], ...] | None = None
    history: tuple[tuple[str, str], ...] = ()
    rewritten: str | None = None

    def __post_init__(self) -> None:
        named = [corpus for corpus, _ in self.searches or ()]
        if not all(named) or len(set(named)) != len(named):
            raise ValueError(f"query {self.id!r}: searches name each corpus once, and none by no name; got {named}")
        if self.rewritten is not None and not self.rewritten.strip():
            raise ValueError(f"query {self.id!r}: rewritten is blank; leave it None")
        if any(len(turn) != 2 or not all(part.strip() for part in turn) for turn in self.history):
            raise ValueError(f"query {self.id!r}: a turn of its history is no pair of question and answer, or one is blank")
        if self.answer_type is AnswerType.CLOSED:
            if len(self.choices) < 2:
                raise ValueError(f"query {self.id!r}: a closed question needs at least two choices, got {self.choices!r}")
            if len(set(self.choices)) != len(self.choices):
                raise ValueError(f"query {self.id!r}: choices repeat: {self.choices!r}")
            if self.answer is not None and self.answer not in self.choices:
                raise ValueError(f"query {self.id!r}: answer {self.answer!r} is not one of its choices {self.choices!r}")
        elif self.choices:
            raise ValueError(f"query {self.id!r}: an open question has no choices, got {self.choices!r}")

    @property
    def searched(self) -> str:
        """What is searched with where nobody wrote words for a corpus: `rewritten`, or the question itself."""
        return self.question if self.rewritten is None else self.rewritten

    @property
    def gold_index(self) -> int:
        """Position of the gold answer among the choices; -1 for an open question or an unknown answer."""
        return self.choices.index(self.answer) if self.answer in self.choices and self.answer is not None else -1


@dataclass(frozen=True, slots=True)
class Document:
    """One item of the evidence corpus: an image, a text, or both, and where it came from.

    `source` names the corpus, `license` what may be done with it, `origin` where exactly it was found: the address or file of a
    page, and when and how its text was made; empty where the table does not tell.
    """

    id: str
    text: str = ""
    image: ImageRef | None = None
    patient_id: str | None = None
    study_id: str | None = None
    modality: str | None = None
    source: str = ""
    license: str = ""
    origin: str = ""

    def __post_init__(self) -> None:
        if not self.text and self.image is None:
            raise ValueError(f"document {self.id!r} has neither text nor image")

    @property
    def corpus(self) -> str:
        """The corpus that it belongs to (HeteroRAG, MedAtlas): ``reports`` for any document with an image, else its source."""
        return self.source if self.image is None else REPORTS


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document found for a query. `score` is the similarity in its channel (cosine unless the store says otherwise)."""

    document: Document
    score: float
    channel: Channel

    @property
    def id(self) -> str:
        """The document's id, which is what a prediction cites."""
        return self.document.id

    @property
    def corpus(self) -> str:
        """The corpus of the document."""
        return self.document.corpus


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The candidates of one query, best first, and what found them (`provenance`: store fingerprint or table path)."""

    query_id: str
    candidates: tuple[Candidate, ...]
    provenance: str = ""


def shares_identity(query: Query, document: Document) -> str | None:
    """Says why `document` must not be evidence for `query`; None if it may be.

    The leak rule (JOMED spec, trap 14 and J16): a candidate never shares id, study, patient or image with its query.
    Unknown (None) fields are not equal to anything.
    """
    if document.id == query.id:
        return "id"
    for name in ("study_id", "patient_id", "image"):
        mine, theirs = getattr(query, name), getattr(document, name)
        if mine is not None and mine == theirs:
            return name
    return None


def unique_by_id(items: Sequence[Query] | Sequence[Document], what: str) -> None:
    """Raises ValueError that names the first repeated id."""
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ValueError(f"{what}: id {item.id!r} occurs more than once")
        seen.add(item.id)
