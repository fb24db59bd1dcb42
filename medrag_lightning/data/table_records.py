"""Tables read into records: the questions of each split, and documents, each id once."""

from __future__ import annotations

from collections.abc import Sequence

from medrag_lightning.data.train_part import train_part as part_of_training
from medrag_lightning.interfaces import Table
from medrag_lightning.records import Document, Query, Split, unique_by_id


def queries_by_split(
    tables: Sequence[Table], only: str | None, train_part: str, limits: tuple[int | None, int | None]
) -> dict[Split, list[Query]]:
    """The questions of each split in file order: those of a type alone, of a part of training, the first so many.

    Args:
        tables: where they come from.
        only: ``closed`` or ``open``; None for both.
        train_part: of the training patients.
        limits: so many training questions, and so many of each other split; None for all.

    Raises:
        ValueError: an id occurs more than once, or a table has bad rows.
    """
    queries = [query for table in tables for query in table.queries()]
    unique_by_id(queries, "data.tables")
    kept = [query for query in queries if only in (None, str(query.answer_type))]
    of_split = {split: [query for query in kept if query.split is split] for split in Split}
    of_split[Split.TRAIN] = part_of_training(of_split[Split.TRAIN], train_part)
    return {split: mine[: limits[split is not Split.TRAIN]] for split, mine in of_split.items()}


def unique_documents(tables: Sequence[Table], what: str) -> list[Document]:
    """The documents of all tables in order; `what` names the setting in the error for a repeated id."""
    documents = [document for table in tables for document in table.documents()]
    unique_by_id(documents, what)
    return documents


def prompt_texts(queries: Sequence[Query], documents: Sequence[Document]) -> list[str]:
    """Everything that a prompt about `queries` may say, and their answers."""
    words = [document.text for document in documents]
    for query in queries:
        words += [query.question, *query.choices, query.answer or "", *(part for turn in query.history for part in turn)]
    return words
