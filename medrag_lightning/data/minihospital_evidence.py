"""What a text of the synthetic hospital says about an entity and a fact, and in which words: rules that read."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medrag_lightning.data.minihospital_corpora import PLACES
from medrag_lightning.data.minihospital_images import DYES, FINDINGS
from medrag_lightning.data.minihospital_questions import FACTS, MARK, Entity
from medrag_lightning.data.minihospital_texts import NUMBERS
from medrag_lightning.records.traces import on_one_line

OUTDATED, WORD = "outdated", r"\w+"
_BETWEEN = r"(?: \||(?: (?:was|is|equals|at)))? "  # a fact's word and its value, in any corpus


def said(text: str, entity: Entity, fact: str, grade: str | None = None) -> tuple[str, str] | None:
    """The value of a fact that a text tells about an entity, and the words that tell it, as they stand; None where it does not.

    Args:
        text: of a document, or an excerpt of one.
        entity: whose fact.
        fact: ``finding``, ``grade``, ``visit`` or another of the texts.
        grade: of the entity; a text tells a visit for one grade alone.
    """
    line = on_one_line(text).removeprefix(f"{MARK} ").removeprefix(f"{OUTDATED} ")
    if fact == "finding":
        words = line.split()
        named = [name for name in FINDINGS if name in words]
        dyes = [dye for dye in DYES if dye in words]
        mine = entity.modality in words and named == [entity.finding] and dyes in ([], [entity.dye])
        return (entity.finding, line) if mine else None
    found = list(re.finditer(_pattern(fact, grade), line))
    found = [one for one in found if one[1] in (FACTS["grade"] if fact == "grade" else NUMBERS)]
    start = -1 if not found else line.rfind(entity.name, 0, found[-1].end())
    if start < 0 or not _is_word(line, start, entity.name):
        return None
    return found[-1][1], line[start : found[-1].end()]


def contradicts(text: str, entity: Entity) -> bool:
    """Whether a text is of another finding, or out of date."""
    words = on_one_line(text).split()
    return OUTDATED in words or any(name in words for name in FINDINGS if name != entity.finding)


def is_outdated(text: str) -> bool:
    """Whether a text says so of itself."""
    return OUTDATED in on_one_line(text).split()


def names(text: str, entity: Entity) -> bool:
    """Whether a text has the entity's name."""
    line = on_one_line(text)
    start = line.find(entity.name)
    return start >= 0 and _is_word(line, start, entity.name)


def first_said(texts: Sequence[str], entity: Entity, fact: str) -> tuple[int, str] | None:
    """The place of the first text that tells a fact, and its value; of a visit, that for the grade which another text tells."""
    grade = None
    if fact == "visit":
        known = first_said(texts, entity, "grade")
        if known is None:
            return None
        grade = known[1]
    for place, text in enumerate(texts):
        if (found := said(text, entity, fact, grade)) is not None:
            return place, found[0]
    return None


def _pattern(fact: str, grade: str | None) -> str:
    if fact == "grade":
        return rf"\bdye grade ({WORD})"
    words = "|".join(re.escape(word) for word in dict.fromkeys([fact, PLACES[fact].word]))
    if fact == "visit":
        return rf"\bgrade {re.escape(grade) if grade else WORD} (?:{words})(?: at)? ({WORD})"
    return rf"\b(?:{words}){_BETWEEN}({WORD})"


def _is_word(line: str, start: int, name: str) -> bool:
    end = start + len(name)
    return (start == 0 or not line[start - 1].isalnum()) and (end == len(line) or not line[end].isalnum())
