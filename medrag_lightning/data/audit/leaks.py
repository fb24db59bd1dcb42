"""The leak audit: what validation and test items have in common with what was trained on, or with what may be looked up."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from medrag_lightning.data.audit.answerable import answerable_leaks
from medrag_lightning.data.audit.identity_leaks import identity_leaks, kept_back
from medrag_lightning.data.audit.image_leaks import image_leaks
from medrag_lightning.data.audit.image_pass import ImageFacts
from medrag_lightning.data.audit.leak import Leak
from medrag_lightning.data.audit.text_leaks import text_leaks
from medrag_lightning.records import Document, ImageRef, Query, Split

__all__ = ["KINDS", "Leak", "find_leaks", "pair_leaks"]

REFUSED = ("same_id", "same_patient", "same_study", "same_image", "near_duplicate_image")
"""What nothing may be trained on, where one of the two sides is `train`."""
KINDS = (
    *REFUSED,
    "corpus_duplicate_image",
    "near_duplicate_report",
    "corpus_near_duplicate_report",
    "answerable_without_image",
    "answerable_not_checked",
    "corpus_shares_identity",
)
_ORDER = ("error", "warning", "note")


def find_leaks(
    queries: Mapping[Split, Sequence[Query]],
    corpus: Sequence[Document],
    facts: Mapping[ImageRef, ImageFacts],
    allowed_overlap: Collection[str] = (),
    own_reports: Sequence[Document] = (),
    words: bool = True,
) -> list[Leak]:
    """Every kind of leak once for each two sides, the worst first; see `KINDS`.

    Errors (training is refused): the same id, patient, study or image in train and in validation or test, and images of one
    picture. Warnings: the same between validation and test; documents of the corpus that show or tell a held-out question's own
    case where the leak rule (`records.shares_identity`) cannot see it; reports of nearly the same words; questions whose words
    give the answer away. Notes: what the leak rule keeps back anyway.

    Args:
        queries: by split.
        corpus: the evidence.
        facts: of every image that could be read; images without are compared by their file alone.
        allowed_overlap: kinds that are known and meant; they become notes.
        own_reports: documents that tell the reports of held-out studies and are no evidence.
        words: whether texts are compared and questions answered without their image.

    Raises:
        ValueError: `allowed_overlap` names a kind that there is not.
    """
    if unknown := sorted(set(allowed_overlap) - set(KINDS)):
        raise ValueError(f"allowed_overlap names {unknown[0]!r}; the kinds of leaks are {', '.join(KINDS)}")
    asked = {Split(split): list(mine) for split, mine in queries.items() if mine}
    found = [*identity_leaks(asked, facts), *image_leaks(asked, corpus, facts), *kept_back(asked, corpus)]
    if words:
        found += [*text_leaks(asked, corpus, own_reports), *answerable_leaks(asked)]
    told = [replace(leak, severity="note") if leak.kind in allowed_overlap else leak for leak in found]
    return sorted(told, key=lambda leak: (_ORDER.index(leak.severity), KINDS.index(leak.kind)))


def pair_leaks(
    queries: Mapping[Split, Sequence[Query]], pairs: Sequence[Document], facts: Mapping[ImageRef, ImageFacts]
) -> list[Leak]:
    """What image-text pairs that a retriever learns from have in common with validation and test questions.

    Pairs that the retriever holds out for its own test count, too: which they are, its split decides, not the questions'.

    Args:
        queries: by split; those of training are not compared.
        pairs: the documents; those without an image or without a text are no pairs.
        facts: as of `find_leaks`.
    """
    seen = [one for one in pairs if one.image is not None and one.text.strip()]
    asked = {split: list(queries.get(split, ())) for split in (Split.VAL, Split.TEST)}
    learnt = [Query(one.id, "?", one.image, patient_id=one.patient_id, study_id=one.study_id) for one in seen]
    found = [leak for leak in find_leaks({Split.TRAIN: learnt, **asked}, (), facts, words=False) if Split.TRAIN in leak.between]
    return [
        replace(
            leak,
            what=_of_pairs(leak.what),
            examples=tuple(map(_of_pairs, leak.examples)),
            remedy="a retriever must not learn from the pairs of held-out patients: name those of others in data.pair_tables",
        )
        for leak in found
    ]


def _of_pairs(text: str) -> str:
    return text.replace("train question", "image-text pair").replace(" of train ", " of the image-text pairs ")
