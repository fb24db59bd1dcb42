"""What a corpus is asked for a query: the question, rewritten or not, or what a query generator wrote for this corpus."""

from __future__ import annotations

from medrag_lightning.records import Query


def wording(query: Query, corpus: str) -> str | None:
    """The words to search `corpus` with; None where there are none, and a text search of it finds nothing.

    They are the question (`Query.searched`: rewritten where it needs its dialogue) where nobody said what to ask
    (`Query.searches` is None), and for a source of no named corpus (`corpus` empty), which a query generator does not know.
    """
    text = query.searched if query.searches is None or not corpus else dict(query.searches).get(corpus, "")
    return text if text.strip() else None


def is_left_out(query: Query, corpus: str) -> bool:
    """Whether the query's searches leave this corpus out; then nothing of it is evidence, whatever the search compares."""
    return bool(corpus) and query.searches is not None and wording(query, corpus) is None
