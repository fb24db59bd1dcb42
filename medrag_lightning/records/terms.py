"""A term of a knowledge graph, and how it stands in the text of a document, from which it can be read back.

    Term: dengue disease | Dengue Fever | breakbone fever
    Definition (MSH): A viral infectious disease that ...
    Relations:
    - dengue disease | has_symptom | fever

The first name is the preferred one. A line ``Definition:`` names no vocabulary.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LEAD, RELATIONS, BAR = "Term: ", "Relations:", " | "
_DEFINITION = re.compile(r"Definition(?: \((?P<vocabulary>[^()]+)\))?: (?P<text>.+)")
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]+")

Relation = tuple[str, str, str]
"""Subject, relation, object; one of its ends is the term that it belongs to."""


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a graph.

    Attributes:
        id: in its ontology; the id of its document.
        names: the preferred name, then the synonyms.
        definitions: (vocabulary, text) of each, the vocabulary empty where there is one only.
        relations: its one-hop relations.
    """

    id: str
    names: tuple[str, ...]
    definitions: tuple[tuple[str, str], ...] = ()
    relations: tuple[Relation, ...] = ()

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError(f"term {self.id!r} has no name")
        for part in (*self.names, *(end for relation in self.relations for end in relation)):
            if part != plain_name(part) or not part:
                raise ValueError(f"term {self.id!r}: {part[:80]!r} is no plain name (records.terms.plain_name makes one)")
        for vocabulary, text in self.definitions:
            if text != plain_text(text) or not text or vocabulary != plain_name(vocabulary) or re.search("[()]", vocabulary):
                raise ValueError(f"term {self.id!r}: a definition is one line, its vocabulary a name without brackets")

    @property
    def name(self) -> str:
        """The preferred name."""
        return self.names[0]


def plain_text(text: str) -> str:
    """`text` on one line, without control characters."""
    return _BLANKS.sub(" ", text).strip()


def plain_name(text: str) -> str:
    """`text` as a name: on one line, without the bar that stands between names."""
    return plain_text(text.replace("|", "/"))


def term_text(term: Term) -> str:
    """The text of a term's document; `read_term` reads it back."""
    lines = [LEAD + BAR.join(term.names)]
    lines += [f"Definition{f' ({vocabulary})' if vocabulary else ''}: {text}" for vocabulary, text in term.definitions]
    lines += [RELATIONS] if term.relations else []
    return "\n".join([*lines, *(f"- {BAR.join(relation)}" for relation in term.relations)])


def read_term(name: str, text: str) -> Term | None:
    """The term in the text of the document `name`; None where it is the text of something else."""
    title, *lines = text.split("\n")
    if not title.startswith(LEAD):
        return None
    definitions: list[tuple[str, str]] = []
    relations: list[Relation] = []
    try:
        for place, line in enumerate(lines):
            if line == RELATIONS:
                for told in lines[place + 1 :]:
                    subject, relation, thing = told.removeprefix("- ").split(BAR)
                    relations.append((subject, relation, thing))
                break
            found = _DEFINITION.fullmatch(line)
            if found is None:
                return None
            definitions.append((found["vocabulary"] or "", found["text"]))
        return Term(name, tuple(title.removeprefix(LEAD).split(BAR)), tuple(definitions), tuple(relations))
    except ValueError:  # another number of parts, or none that could be a name
        return None
