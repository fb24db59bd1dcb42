"""What a perfect reader of the synthetic hospital answers, and how often it is right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from fractions import Fraction

from medrag_lightning.data.minihospital_questions import FACTS
from medrag_lightning.data.minihospital_texts import TEXT_FACTS, is_text
from medrag_lightning.records import Document, Knowledge, Query, shares_identity

TAKES = {
    "report": {Knowledge.REPORTS},
    "both": {Knowledge.REPORTS},
    "document": {Knowledge.DOCUMENTS},
    "image_document": {Knowledge.DOCUMENTS},
    "report_document": {Knowledge.REPORTS, Knowledge.DOCUMENTS},
}
"""The kinds of evidence without which a question cannot be answered, by its need; none for a need that is not named."""


def oracle_answer(query: Query, shown: Iterable[Document]) -> str | None:
    """What a perfect reader answers that is shown `shown`; None where it cannot know and must guess.

    It sees everything in the image, is not misled by a report that contradicts it or by an outdated text, and knows no fact
    by heart.
    """
    legal = {document.id for document in shown if shares_identity(query, document) is None}
    return query.answer if _answers(query, legal & set(query.relevant_ids)) else None


def best_accuracy(queries: Sequence[Query], with_retrieval: bool) -> dict[str, float]:
    """The best expected accuracy on `queries`, per need and as ``all``, with every relevant document at hand or with none.

    Without evidence the answer of a question that takes some is uniform over its choices, or over the values of its fact if
    it is open; every other question is answered by the image or by the question. ValueError on an empty list.
    """
    if not queries:
        raise ValueError("best_accuracy needs at least one query")
    sums: dict[str, list[Fraction]] = defaultdict(list)
    for query in queries:
        known = _answers(query, set(query.relevant_ids) if with_retrieval else set())
        value = Fraction(1) if known else Fraction(1, _option_count(query))
        for key in (str(query.need), "all"):
            sums[key].append(value)
    return {key: float(sum(values) / len(values)) for key, values in sums.items()}


def _answers(query: Query, relevant: set[str]) -> bool:
    """Whether relevant documents of every kind that the question takes are among `relevant`."""
    kinds = {Knowledge.DOCUMENTS if is_text(name) else Knowledge.REPORTS for name in relevant}
    return TAKES.get(str(query.need), set()) <= kinds


def _option_count(query: Query) -> int:
    if query.choices:
        return len(query.choices)
    return next(len(values) for values in (*FACTS.values(), *TEXT_FACTS.values()) if query.answer in values)
