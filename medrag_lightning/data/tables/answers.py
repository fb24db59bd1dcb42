"""What counts as a closed question in data sets that only say CLOSED or OPEN, and how answered questions become evidence.

The rule, the same for every data set of questions here:

1. The answer is yes or no (any case, a final full stop allowed): the choices are ``yes`` and ``no``, the answer is lower-cased.
2. The data set calls the question closed, and the question itself names two single-word alternatives, "A or B", one of which is
   the answer, alone or with the noun that both share in the question (side, matter, scan, ...; "right or left side": "Left
   side"): the choices are A and B as the question writes them, in that order.
3. Any other question that the data set calls closed has no list of choices that could be known without looking at the answers
   of other rows. It is kept as an *open* question and counted in a log line. Nothing is dropped.

An answer of yes or no makes a question closed even where the data set calls it open (SLAKE and PathVQA do, here and there).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence

from medrag_lightning.records import AnswerType, Document, Query, Split

YES_NO = ("yes", "no")
_OR = re.compile(r"(?P<a>\S+) or (?:(?:the|a|an) )?(?P<b>\S+)(?P<tail>.*)$", re.IGNORECASE)
_NOT_AN_OPTION = {"not", "no", "non", "without", "just", "other", "more", "than", "any", "is", "are", "the", "a", "an", "this"}
_COMPARATIVES = {"more", "less"}
_SHARED_WORDS = {"side", "sides", "matter", "contrast", "scan", "image", "film", "view", "plane", "dense", "lung", "lobe"}
_EDGES = ".,;:?!\"'()"

log = logging.getLogger(__name__)


def closed_answer(question: str, answer: str, marked_closed: bool) -> tuple[tuple[str, ...], str]:
    """The choices of a question and its answer in their words; no choices and the answer as it is for an open question."""
    bare = " ".join(answer.split()).rstrip(".").casefold()
    if bare in YES_NO:
        return YES_NO, bare
    options = _alternatives(question) if marked_closed else None
    if options is not None:
        first, second, tail = options
        for option in (first, second):
            if bare in (option.casefold(), f"{option} {tail}".casefold()):
                return (first, second), option
    return (), answer.strip()


def _alternatives(question: str) -> tuple[str, str, str] | None:
    """A, B and the noun that they share after B (or nothing), where the question says "A or B" once; None otherwise."""
    text = " ".join(question.split())
    if len(re.findall(r"\bor\b", text, re.IGNORECASE)) != 1:
        return None
    match = _OR.search(text)
    if match is None or match["a"].endswith(","):
        return None  # a longer list: its parts cannot be told apart safely
    first, second = match["a"].strip(_EDGES), match["b"].strip(_EDGES)
    usable = all(word and (word.lower() not in _NOT_AN_OPTION) for word in (first, second))
    if {first.lower(), second.lower()} == _COMPARATIVES:
        usable = True  # "more or less dense"
    if not usable or first.casefold() == second.casefold():
        return None
    words = [] if match["b"][-1:] in _EDGES else [word.strip(_EDGES) for word in match["tail"].split()]
    if first.casefold() in (word.casefold() for word in words):
        return None  # "a contrast CT or a non-contrast CT": A is only the end of a longer alternative
    return first, second, words[0] if words and words[0].casefold() in _SHARED_WORDS else ""


def answered_documents(queries: Iterable[Query], text: str) -> list[Document]:
    """The answered training questions as evidence: the question's own id (so no question finds itself), its image, and `text`
    with ``{question}`` and ``{answer}`` filled in."""
    return [
        Document(
            id=query.id,
            text=text.replace("{question}", query.question).replace("{answer}", query.answer),
            image=query.image,
            patient_id=query.patient_id,
            study_id=query.study_id,
            modality=query.modality,
            source=query.source,
        )
        for query in queries
        if query.split is Split.TRAIN and query.answer is not None
    ]


def log_closed(table: str, queries: Sequence[Query], marked_closed: Sequence[str]) -> None:
    """Logs how many questions are closed, and which of those that the data set marks so had to be kept as open ones."""
    closed = {query.id for query in queries if query.answer_type is AnswerType.CLOSED}
    reopened = [name for name in marked_closed if name not in closed]
    yes_no = sum(query.choices == YES_NO for query in queries)
    log.info("%s: %d questions, %d closed (%d yes/no)", table, len(queries), len(closed), yes_no)
    if reopened:
        log.warning(
            "%s: %d questions are marked closed but neither answered yes/no nor offer 'A or B'; kept as open questions: %s%s",
            table,
            len(reopened),
            ", ".join(reopened[:5]),
            ", ..." if len(reopened) > 5 else "",
        )
