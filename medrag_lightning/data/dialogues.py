"""Dialogues as questions: a turn with what was said before it, and nothing of what was said after it.

A turn can see a later one in two ways: in its prompt, which `turns` rules out by construction; and in its evidence, where the
answered turns of training dialogues are documents. The leak rule of candidates (`shares_identity`) knows that two turns belong
together by their patient, study or image; `apart` finds turns that share none, so that no table hands them out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from medrag_lightning.data.rows import Row, as_text, shorten
from medrag_lightning.records import Query

History = tuple[tuple[str, str], ...]
"""(question, answer) of earlier turns, first turn first."""


def turns(pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[History, str, str]]:
    """Each (question, answer) of a dialogue after the turns before it."""
    for place, (question, answer) in enumerate(pairs):
        yield tuple(pairs[:place]), question, answer


def read_history(row: Row, key: str = "history") -> History:
    """The earlier turns under `key`, a list of [question, answer]; empty where it is missing or null.

    Raises:
        ValueError: it holds something else, or a blank question or answer.
    """
    value = row.values.get(key)
    if isinstance(value, str) and value.strip():
        raise ValueError(
            f"key {key!r} holds a text; expected the earlier turns of a dialogue, a list of [question, answer]. Where it means "
            "something else, such as a patient's history, give it another name in the file"
        )
    return as_history(key, value or None)


def as_history(key: str, value: Any) -> History:
    """`value` as earlier turns; ValueError names `key` where it is no list of [question, answer], or a half is blank."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise ValueError(f"{key!r} holds {shorten(value)}; expected a list of [question, answer], first turn first")
    return tuple(_turn(key, number, turn) for number, turn in enumerate(value, start=1))


def apart(queries: Sequence[Query]) -> str | None:
    """Says which turn of a dialogue could find another one as evidence, and what helps; None where none can.

    A question with a history and the question that was the last turn of it must have patient, study or image in common. Where
    several questions could be that turn (two dialogues may begin alike), one that has is enough.
    """
    said: dict[tuple[tuple[str, str], ...], list[Query]] = defaultdict(list)
    for query in queries:
        if query.answer is not None:
            said[(*query.history, (query.question, query.answer))].append(query)
    for query in queries:
        before = said.get(query.history, []) if query.history else []
        alone = query.history and not _names(query)
        if alone or (before and not any(_names(query) & _names(other) for other in before)):
            first = f" and {before[0].id!r}, the turn before it," if before else ""
            verb = "share no" if before else "has no"
            return (
                f"query {query.id!r}{first} {verb} patient_id, study_id or image, so that turns of one dialogue could be "
                "evidence for each other, later ones for earlier ones: give every turn of a dialogue the same study_id"
            )
    return None


def _turn(key: str, number: int, turn: Any) -> tuple[str, str]:
    if not isinstance(turn, list | tuple) or len(turn) != 2:
        raise ValueError(f"{key!r}, turn {number} is {shorten(turn)}; expected [question, answer]")
    question, answer = (as_text(f"{key}, turn {number}", part) for part in turn)
    if not question or not answer:
        raise ValueError(f"{key!r}, turn {number}: its {'answer' if question else 'question'} is blank")
    return question, answer


def _names(query: Query) -> set[tuple[str, Any]]:
    told = {"patient": query.patient_id, "study": query.study_id, "image": query.image}
    return {(kind, value) for kind, value in told.items() if value is not None}
