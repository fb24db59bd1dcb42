"""A question without its answer, for whoever is to write about it without knowing that."""

from __future__ import annotations

from dataclasses import replace

from medrag_lightning.records import Query


def unanswered(query: Query) -> Query:
    """The question as somebody meets it who does not know the answer, nor what a generated world knows about it.

    Choices stay, and one of them is the right answer: they are the question's own.
    """
    return replace(query, answer=None, relevant_ids=(), poison_ids=(), need=None, searches=None)
