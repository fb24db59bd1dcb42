"""Reports, and answers as long as reports, that another side repeats in nearly the same words under another identity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from medrag_lightning.data.audit.leak import CORPUS, Leak, Place, leak_of, places, plural, split_pairs
from medrag_lightning.data.audit.near_text import MIN_WORDS, near_texts, normalised
from medrag_lightning.records import Document, Query, Split, shares_identity

BOILERPLATE = 3  # patients from whom on a text is a form that many reports follow, and tells nothing of whose it is
REMEDY = (
    "look at both: if they are one patient's, give them the same patient_id or study_id (the leak rule then keeps a document "
    "back; a question belongs into one split); if both follow a form, nothing need be done"
)
Texts = Mapping[str, list[Place]]


def text_leaks(
    queries: Mapping[Split, Sequence[Query]], corpus: Sequence[Document], own_reports: Sequence[Document] = ()
) -> list[Leak]:
    """Texts of held-out questions that earlier splits, or documents which the leak rule allows, say nearly word for word.

    A question's texts are its answer, if it is as long as a report, and what the documents of its own study or image say.
    Words that are the same need not be one patient's, so these are warnings. Texts that `BOILERPLATE` patients share count for
    nothing.
    """
    told = _reports([*corpus, *own_reports])
    texts = {split: _texts(split, queries[split], told) for split in queries}
    library = _sayings(places(CORPUS, corpus))
    common = _boilerplate([*texts.values(), library])
    found: list[Leak] = []
    for seen, judged in split_pairs(queries):
        pairs = _pairs(texts[judged], texts[seen], common)
        if pairs:
            many = plural(len(pairs), "question")
            what = f"{many} of {judged} have a report or long answer that {seen} has nearly word for word"
            found.append(leak_of("near_duplicate_report", pairs, what, REMEDY, "warning"))
    for judged in (Split.VAL, Split.TEST):
        pairs = _pairs(texts.get(judged, {}), library, common)
        if pairs:
            many = plural(len(pairs), "question")
            what = (
                f"{many} of {judged} have a report or long answer that a document of another patient, "
                "study and image says nearly word for word, so that the leak rule cannot see it"
            )
            found.append(leak_of("corpus_near_duplicate_report", pairs, what, REMEDY, "warning"))
    return found


def _reports(documents: Iterable[Document]) -> Mapping[object, list[str]]:
    """What is said of each study and each image."""
    told: dict[object, list[str]] = defaultdict(list)
    for document in documents:
        if text := normalised(document.text):
            for key in (document.study_id, document.image):
                if key is not None:
                    told[key].append(text)
    return told


def _texts(side: str, queries: Sequence[Query], told: Mapping[object, list[str]]) -> Texts:
    """The places of each text that belongs to a question."""
    found: dict[str, list[Place]] = defaultdict(list)
    for place in places(side, queries):
        query = place.record
        assert isinstance(query, Query)
        mine = [*told.get(query.study_id, ()), *told.get(query.image, ()), normalised(query.answer or "")]
        for text in dict.fromkeys(mine):
            if _is_long(text):
                found[text].append(place)
    return found


def _sayings(documents: Sequence[Place]) -> Texts:
    found: dict[str, list[Place]] = defaultdict(list)
    for place in documents:
        assert isinstance(place.record, Document)
        if _is_long(text := normalised(place.record.text)):
            found[text].append(place)
    return found


def _is_long(text: str) -> bool:
    return text.count(" ") >= MIN_WORDS - 1


def _boilerplate(sides: Iterable[Texts]) -> frozenset[str]:
    """Texts that so many different patients have that they are a form."""
    owners: dict[str, set[object]] = defaultdict(set)
    for texts in sides:
        for text, said_by in texts.items():
            for record in (place.record for place in said_by):
                owners[text].add(record.patient_id or record.study_id or record.image or record.id)
    return frozenset(text for text, who in owners.items() if len(who) >= BOILERPLATE)


def _pairs(judged: Texts, seen: Texts, common: frozenset[str]) -> list[tuple[Place, Place]]:
    """For each judged question the first place of the other side that says one of its texts and shares no identity with it."""
    mine = [text for text in judged if text not in common]
    theirs = [text for text in seen if text not in common]
    found: dict[str, tuple[Place, Place]] = {}
    for a, b in near_texts(mine, theirs):
        for place in judged[mine[a]]:
            other = next((other for other in seen[theirs[b]] if not _same_case(place.record, other.record)), None)
            if other is not None:
                found.setdefault(place.record.id, (other, place))
    return sorted(found.values(), key=lambda pair: pair[1].number)


def _same_case(query: Query | Document, other: Query | Document) -> bool:
    assert isinstance(query, Query)
    if isinstance(other, Document):
        return shares_identity(query, other) is not None
    named = [(query.patient_id, other.patient_id), (query.study_id, other.study_id), (query.image, other.image)]
    return any(a is not None and a == b for a, b in named)  # told as same_patient, same_study or same_image
