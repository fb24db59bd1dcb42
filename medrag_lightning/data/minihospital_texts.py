"""The library of the synthetic hospital: texts without images that tell what no report tells, and questions about it.

Two corpora. The *encyclopaedia* has entries about an entity's risk, score and type. The *guidelines* say, for two grades
of an entity, when it is to be seen again: this takes two sources, the grade from a report and the rule for it from a guideline.
Beside them stand texts that do not help: outdated versions that say otherwise, entries of look-alikes that no patient has (same
finding, other dye), and entries that tell something nobody asks.

Like grades, these facts and rules are drawn per entity, and entities are dealt to splits: nothing can be learnt by heart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medrag_lightning.data.minihospital_images import DYES
from medrag_lightning.data.minihospital_questions import FACTS, MARK, Entity, Item
from medrag_lightning.records import Document, Split

TEXT_NEEDS = ("document", "image_document", "report_document")
NUMBERS = FACTS["grade"]  # values of grades, too: with words of its own for each fact a small reader learns facts by heart
ENTRIES = dict.fromkeys(("risk", "score", "type"), NUMBERS)  # facts of the encyclopaedia
VISITS = NUMBERS
TEXT_FACTS = {**ENTRIES, "visit": VISITS}
ENCYCLOPAEDIA, GUIDELINES = f"minihospital encyclopaedia ({MARK})", f"minihospital guidelines ({MARK})"
DOCTORS = ("adams", "baker", "clark", "davis")
OUTDATED_SHARE = 0.2  # of the facts, whose text has an older version that is wrong
LOOK_ALIKE_SHARE = 0.25  # of the entities, that have a look-alike in the encyclopaedia alone
OPEN_SHARE = 0.5  # of the studies, whose closed question of a need has an open one beside it
TEXT_PREFIX = "text-"


@dataclass(frozen=True, slots=True)
class Lore:
    """What texts tell about one entity.

    Attributes:
        facts: the value of each fact that texts tell; ``visit`` is that for the entity's own grade.
        old: what outdated texts say instead, of the facts that have one.
        other_grade, other_visit: what the guideline for another grade says.
    """

    facts: Mapping[str, str]
    old: Mapping[str, str]
    other_grade: str
    other_visit: str


class Library:
    """The texts of a hospital and the questions that need them.

    `Query.need` of its questions:

    - ``document``: a fact of the encyclopaedia about the entity that the question names.
    - ``image_document``: the same, where the question names modality and finding and only the image shows the dye.
    - ``report_document``: the next visit of the entity that the question names; the guidelines say it by grade, and only a
      report tells the grade. Guidelines alone leave two answers.

    Args:
        seed: of the hospital.
        entities: what it treats.
    """

    def __init__(self, seed: int, entities: Sequence[Entity]) -> None:
        self.entities = entities
        self.lore = draw_lore(np.random.default_rng([seed, 4]), entities, TEXT_FACTS)
        self.documents = self._write(np.random.default_rng([seed, 6]))

    def ask(self, entity: Entity, rng: np.random.Generator) -> list[Item]:
        """The questions of one study of `entity` that texts answer: closed ones, and some open ones."""
        return text_questions(entity, self.lore[entity.number], list(ENTRIES), rng)

    def _write(self, rng: np.random.Generator) -> list[Document]:
        """Every text, entity by entity."""
        taken = {entity.name for entity in self.entities}
        documents: list[Document] = []
        for entity in self.entities:
            told = _about(entity, self.lore[entity.number])
            told["aside"] = f"entry {entity.name} first seen by doctor {rng.choice(DOCTORS)}"
            look_alikes = [other for dye in DYES if (other := f"{entity.modality} {entity.finding} {dye}") not in taken]
            if look_alikes and rng.random() < LOOK_ALIKE_SHARE:
                other, fact = str(rng.choice(look_alikes)), str(rng.choice(list(ENTRIES)))
                taken.add(other)
                told["look-alike"] = f"entry {other} {fact} {rng.choice(ENTRIES[fact])}"
            documents += [_document(entity, kind, words) for kind, words in told.items()]
        return documents


def is_text(document_id: str) -> bool:
    """Whether an id of the hospital's evidence is that of a text without an image."""
    return document_id.startswith(TEXT_PREFIX)


def text_questions(entity: Entity, lore: Lore, facts: Sequence[str], rng: np.random.Generator) -> list[Item]:
    """The questions of one study that texts answer: about some of `facts`, and about the next visit."""
    named, shown = entity.name, f"{entity.modality} {entity.finding}"
    order = [str(fact) for fact in rng.permutation(list(facts))]
    items = [_item("document", named, entity, lore, order[0], closed=True)]
    items.append(_item("image_document", shown, entity, lore, order[1], closed=True))
    items.append(_item("report_document", named, entity, lore, "visit", closed=True))
    if rng.random() < OPEN_SHARE:
        items.append(_item("document", named, entity, lore, order[1], closed=False))
        items.append(_item("image_document", shown, entity, lore, order[2], closed=False))
        items.append(_item("report_document", named, entity, lore, "visit", closed=False))
    return items


def _item(need: str, named: str, entity: Entity, lore: Lore, fact: str, closed: bool) -> Item:
    question = f"{named} , {'which' if closed else 'what'} {fact}?"
    by_report = "grade" if need == "report_document" else None
    choices = NUMBERS if closed else ()
    old = (text_id(entity, f"old-{fact}"),) if fact in lore.old else ()
    return Item(need, question, lore.facts[fact], choices, by_report, (text_id(entity, fact),), old)


def draw_lore(
    rng: np.random.Generator, entities: Sequence[Entity], told_facts: Mapping[str, Sequence[str]]
) -> Mapping[int, Lore]:
    """What texts tell about each entity, by its number; the values of a fact are equally frequent within a split."""
    lore: dict[int, Lore] = {}
    for split in Split:
        mine = [entity for entity in entities if entity.split is split]
        values = {name: [told[i % len(told)] for i in rng.permutation(len(mine))] for name, told in told_facts.items()}
        for place, entity in enumerate(mine):
            facts = {name: values[name][place] for name in told_facts}
            old = {name: another(told, facts[name], rng) for name, told in told_facts.items() if rng.random() < OUTDATED_SHARE}
            other_grade = another(FACTS["grade"], entity.facts["grade"], rng)
            lore[entity.number] = Lore(facts, old, other_grade, another(VISITS, facts["visit"], rng))
    return lore


def _about(entity: Entity, lore: Lore) -> dict[str, str]:
    """The words of the texts about an entity's facts, by kind of text."""
    name, grade = entity.name, entity.facts["grade"]
    lead = {fact: f"entry {name} {fact}" for fact in ENTRIES} | {"visit": f"guideline {name} grade {grade} visit"}
    told = {fact: f"{lead[fact]} {value}" for fact, value in lore.facts.items()}
    told["other-visit"] = f"guideline {name} grade {lore.other_grade} visit {lore.other_visit}"
    return told | {f"old-{fact}": f"outdated {lead[fact]} {value}" for fact, value in lore.old.items()}


def another(values: Sequence[str], value: str, rng: np.random.Generator) -> str:
    """One of `values` that is not `value`."""
    return str(rng.choice([other for other in values if other != value]))


def text_id(entity: Entity, kind: str) -> str:
    """The id of the text of a kind about an entity."""
    return f"{TEXT_PREFIX}{MARK}-e{entity.number:04d}-{kind}"


def _document(entity: Entity, kind: str, words: str) -> Document:
    source = GUIDELINES if kind.endswith("visit") else ENCYCLOPAEDIA
    return Document(text_id(entity, kind), f"{MARK} {words}", modality=entity.modality, source=source, license=MARK)
