"""Image-text documents as open questions whose answers are their texts: what a projector is aligned on (MIRA, stage 1), and
what a reader that writes reports is trained and tested on (HeteroRAG, report generation).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medrag_lightning.artifacts import counter_rng
from medrag_lightning.records import AnswerType, Document, Query, Split

if TYPE_CHECKING:  # the seams need torch, and reading tables does not
    from medrag_lightning.interfaces import Table

QUESTION = "Describe the image."


class CaptionsAsQuestions:
    """One question for each document with an image and a text, answered by its text.

    The questions bring no documents. To align a projector, give the data an empty corpus and `retrieval.source.NoEvidence`: no
    document of `tables` may then be about a validation or test item of other tables. To write reports with evidence, give it
    the same tables as its corpus: nothing of the same patient, study or image is ever evidence.

    Args:
        tables: whose documents are taken.
        question: what is asked of each image.
        held_out_share: share of the patients (of the documents, where no patient is told) whose captions are for validation.
        test_share: share whose captions are for the test.
        max_chars: a longer text is left as it is and refused, since a cut one would teach to stop anywhere; null for any.
        seed: of the draw.

    Raises:
        ValueError: no document has both image and text, or one is too long; the message says which.
    """

    def __init__(
        self,
        tables: list[Table],
        question: str = QUESTION,
        held_out_share: float = 0.05,
        max_chars: int | None = None,
        seed: int = 0,
        test_share: float = 0.0,
    ) -> None:
        if not (held_out_share > 0 and test_share >= 0 and held_out_share + test_share < 1):
            raise ValueError(
                f"held_out_share must be in (0, 1), for a fit is validated on it, and leave something beside test_share; got "
                f"{held_out_share} and {test_share}"
            )
        if not question.strip():
            raise ValueError("question is blank: the reader must be asked for a caption")
        self.tables, self.question, self.share, self.max_chars, self.seed = tables, question, held_out_share, max_chars, seed
        self.test_share = test_share

    def queries(self) -> list[Query]:
        """The questions, in the order of the documents."""
        told = [one for table in self.tables for one in table.documents() if one.image is not None and one.text.strip()]
        if not told:
            raise ValueError("captions: no document of these tables has both an image and a text")
        if self.max_chars is not None and (longer := [one for one in told if len(one.text) > self.max_chars]):
            raise ValueError(
                f"captions: {len(longer)} of {len(told)} texts are longer than max_chars {self.max_chars}, the "
                f"first of {longer[0].id!r}: raise it, or give tables of shorter texts"
            )
        return [self._query(document) for document in told]

    def documents(self) -> list[Document]:
        """None: an image's caption must not be found beside it."""
        return []

    def roots(self) -> list[Path]:
        """Those of the tables."""
        return [root for table in self.tables for root in table.roots()]

    def _query(self, document: Document) -> Query:
        drawn = counter_rng(self.seed, "captions", document.patient_id or document.id).random()
        return Query(
            id=f"caption-{document.id}",
            question=self.question,
            image=document.image,
            answer=document.text.strip(),
            answer_type=AnswerType.OPEN,
            split=self._split(drawn),
            patient_id=document.patient_id,
            study_id=document.study_id,
            modality=document.modality,
            source=document.source,
        )

    def _split(self, drawn: float) -> Split:
        if drawn < self.share:
            return Split.VAL
        return Split.TEST if drawn < self.share + self.test_share else Split.TRAIN
