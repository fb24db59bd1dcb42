"""The five corpora of the synthetic hospital, each in its own style (HeteroRAG, "mini-world"), and what finds a fact there.

Every fact lives in one corpus and is told there in that corpus's own word: the question says *risk*, the abstract *hazard*.

    research    synthetic abstract : in x-ray nodule rose cohorts hazard was two
    wiki        synthetic article x-ray nodule rose : its variant is four
    book        synthetic chapter on x-ray nodule rose : the index equals one
    guideline   synthetic recommendation : x-ray nodule rose of grade six return at three
    graph       a term of `records.terms`: x-ray nodule rose | treated_by | five

Beside a fact stand texts of the same entity that do not help: facts that nobody asks about, outdated versions, and for some
facts a text that has the question's word but says nothing; and texts about look-alikes that no patient has. So the question
itself finds texts about the right entity, and only words of the corpus surely find the right one; where a question leaves
the dye to the image, only words that the image gives.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medrag_lightning.data.minihospital_images import DYES
from medrag_lightning.data.minihospital_questions import FACTS, MARK, Entity, Item
from medrag_lightning.data.minihospital_texts import (
    DOCTORS,
    LOOK_ALIKE_SHARE,
    NUMBERS,
    Lore,
    draw_lore,
    text_id,
    text_questions,
)
from medrag_lightning.records import Document, Searches
from medrag_lightning.records.terms import Term, term_text

CORPORA = {
    "research": "abstracts of studies: hazard and recurrence of a finding",
    "wiki": "encyclopaedia articles: variant and debut of a finding",
    "book": "chapters of textbooks: index and thickness of a finding",
    "guideline": "recommendations by grade: when a patient is to return",
    "graph": "terms and their relations; ask as: term , relation",
}
"""What each corpus holds, as an expert is told, by its name."""
_FRAMES = {
    "research": "abstract : in {name} cohorts {told}",
    "wiki": "article {name} : its {told}",
    "book": "chapter on {name} : the {told}",
    "guideline": "recommendation : {name} of {told}",
}
_VERBS = {"research": "was", "wiki": "is", "book": "equals", "guideline": "at"}
_UNASKED = {
    "research": ("enrolment", "adherence"),
    "wiki": ("spelling", "discovery"),
    "book": ("density", "mobility"),
    "guideline": ("dose", "diet", "rest", "sport"),
}  # what texts tell that no question is about
_FALSE_FRIENDS = ("relapse", "onset", "depth")  # words of questions that their corpus uses, but not where it tells the fact
_BIOPSY, _SCREENING = " biopsy", " screening"  # terms of a graph beside the entity's own


@dataclass(frozen=True, slots=True)
class Place:
    """Where a fact is told.

    Attributes:
        corpus: its name.
        word: what the corpus calls the fact; a relation in the graph.
        suffix: what follows the entity's name in the name of its term (graph).
    """

    corpus: str
    word: str
    suffix: str = ""


PLACES = {
    "risk": Place("research", "hazard"),
    "relapse": Place("research", "recurrence"),
    "type": Place("wiki", "variant"),
    "onset": Place("wiki", "debut"),
    "score": Place("book", "index"),
    "depth": Place("book", "thickness"),
    "drug": Place("graph", "treated_by"),
    "test": Place("graph", "confirmed_by", _BIOPSY),
    "visit": Place("guideline", "return"),
}
"""Where the answer to a question stands, by the question's word; all but ``visit`` are told whatever the grade is."""
_ASKED = re.compile(r"\b(?:which|what) (\w+)\?$")


class FiveCorpora:
    """The texts of a hospital in five corpora, and the questions that need them (`minihospital_texts.Library` has the needs).

    Args:
        seed: of the hospital.
        entities: what it treats.
    """

    def __init__(self, seed: int, entities: Sequence[Entity]) -> None:
        self.entities = entities
        self.lore = draw_lore(np.random.default_rng([seed, 8]), entities, dict.fromkeys(PLACES, NUMBERS))
        self.documents = self._write(np.random.default_rng([seed, 9]))

    def ask(self, entity: Entity, rng: np.random.Generator) -> list[Item]:
        """The questions of one study of `entity` that texts answer: closed ones, and some open ones."""
        return text_questions(entity, self.lore[entity.number], [fact for fact in PLACES if fact != "visit"], rng)

    def _write(self, rng: np.random.Generator) -> list[Document]:
        """Every text, corpus by corpus, in an order that says nothing about which one is right."""
        taken = {entity.name for entity in self.entities}
        made: list[Document] = []
        for entity in self.entities:
            told = [*_texts(entity, self.lore[entity.number], rng), *_terms(entity, self.lore[entity.number], rng)]
            names = [other for dye in DYES if (other := f"{entity.modality} {entity.finding} {dye}") not in taken]
            if names and rng.random() < LOOK_ALIKE_SHARE:
                other = str(rng.choice(names))
                taken.add(other)
                told.append(_look_alike(other, rng))
            made += [
                Document(text_id(entity, kind), text, modality=entity.modality, source=corpus, license=MARK)
                for corpus, kind, text in told
            ]
        shuffled = [made[place] for place in rng.permutation(len(made))]
        return sorted(shuffled, key=lambda document: list(CORPORA).index(document.source))


def asked_fact(question: str) -> str | None:
    """The fact of `PLACES` that a question of the hospital is about; None for a question that no text answers."""
    found = _ASKED.search(question)
    return found[1] if found and found[1] in PLACES else None


def words_for(name: str, fact: str) -> str:
    """The words that find a fact about the entity `name` in its corpus."""
    place = PLACES[fact]
    return f"{name}{place.suffix} , {place.word}" if place.corpus == "graph" else f"{place.word} of {name}"


def best_searches(question: str, entity: Entity) -> Searches:
    """What to ask for a question about an entity that is known: the one corpus that tells it, in its words; () for none."""
    fact = asked_fact(question)
    return ((PLACES[fact].corpus, words_for(entity.name, fact)),) if fact else ()


Told = tuple[str, str, str]
"""Corpus, kind and text of a document."""


def _texts(entity: Entity, lore: Lore, rng: np.random.Generator) -> Iterator[Told]:
    """The texts about an entity in the corpora that are no graph."""
    mine = entity.facts["grade"]
    for corpus, frame in _FRAMES.items():
        facts = [fact for fact, place in PLACES.items() if place.corpus == corpus]
        lines = {fact: _line(corpus, fact, lore.facts[fact], mine) for fact in facts}
        lines |= {f"old-{fact}": _line(corpus, fact, lore.old[fact], mine) for fact in facts if fact in lore.old}
        if corpus == "guideline":
            lines["other-visit"] = _line(corpus, "visit", lore.other_visit, lore.other_grade)
        for word in _UNASKED[corpus]:
            grade = f"grade {rng.choice(FACTS['grade'])} " if corpus == "guideline" else ""
            lines[word] = f"{grade}{word} {_VERBS[corpus]} {rng.choice(NUMBERS)}"
        lines |= {f"{fact}-open": f"{fact} stays open" for fact in facts if fact in _FALSE_FRIENDS}
        for kind, told in lines.items():
            outdated = "outdated " if kind.startswith("old-") else ""
            yield corpus, kind, f"{MARK} {outdated}{frame.format(name=entity.name, told=told)}"


def _line(corpus: str, fact: str, value: str, grade: str) -> str:
    return f"{f'grade {grade} ' if corpus == 'guideline' else ''}{PLACES[fact].word} {_VERBS[corpus]} {value}"


def _terms(entity: Entity, lore: Lore, rng: np.random.Generator) -> Iterator[Told]:
    """The terms about an entity in the graph: itself, its biopsy, its screening, and outdated ones."""
    doctor = str(rng.choice(DOCTORS))
    asides = {"drug": ("imaged_by", entity.modality), "test": ("done_by", f"doctor {doctor}")}
    for fact, aside in asides.items():
        name, place = f"{entity.name}{PLACES[fact].suffix}", PLACES[fact]
        yield "graph", fact, _term(name, [(place.word, lore.facts[fact]), aside], rng)
        if fact in lore.old:
            yield "graph", f"old-{fact}", _term(f"outdated {name}", [(place.word, lore.old[fact]), aside], rng)
    yield "graph", "screening", _term(f"{entity.name}{_SCREENING}", [("offered_by", f"doctor {rng.choice(DOCTORS)}")], rng)


def _term(name: str, relations: Sequence[tuple[str, str]], rng: np.random.Generator) -> str:
    """The text of a term, its relations in a drawn order."""
    order = rng.permutation(len(relations))
    return term_text(Term(name, (name,), ((MARK, "made up"),), tuple((name, *relations[place]) for place in order)))


def _look_alike(name: str, rng: np.random.Generator) -> Told:
    fact = str(rng.choice([fact for fact, place in PLACES.items() if place.corpus in ("research", "wiki", "book")]))
    corpus = PLACES[fact].corpus
    return corpus, "look-alike", f"{MARK} {_FRAMES[corpus].format(name=name, told=_line(corpus, fact, _number(rng), ''))}"


def _number(rng: np.random.Generator) -> str:
    return str(rng.choice(NUMBERS))
