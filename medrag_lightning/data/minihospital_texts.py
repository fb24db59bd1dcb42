"""The library of the synthetic hospital: texts without images that tell what no report tells, and questions about it.

Two corpora. The *encyclopaedia* has an entry about each entity's therapy; the *guidelines* say, for two grades of an entity,
when it is to be seen again. So a therapy takes one text, and a visit takes two sources: the grade from a report, the rule for
it from a guideline. Beside them stand texts that do not help: outdated versions that say otherwise, entries of look-alikes
that no patient has (same finding, other dye), and entries that tell something nobody asks.

Like grades, therapies and rules are drawn per entity, and entities are dealt to splits: nothing can be learnt by heart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medrag_lightning.data.minihospital_images import DYES
from medrag_lightning.data.minihospital_questions import CLOSED_SHARE, FACTS, MARK, Entity, Item
from medrag_lightning.records import Document, Split

TEXT_NEEDS = ("document", "image_document", "report_document")
TEXT_FACTS = {
    "therapy": ("laser", "drain", "stent", "splint", "graft", "rest"),
    "visit": ("hourly", "daily", "nightly", "weekly", "monthly", "yearly"),
}
ENCYCLOPAEDIA, GUIDELINES = f"minihospital encyclopaedia ({MARK})", f"minihospital guidelines ({MARK})"
DOCTORS = ("adams", "baker", "clark", "davis")
OUTDATED_SHARE = 0.3  # of the entities, whose entry and guideline have an older version that is wrong
LOOK_ALIKE_SHARE = 0.25  # of the entities, that have a look-alike in the encyclopaedia alone
OPEN_SHARE = 0.5  # of the studies, that also ask an open question about a text's fact of what the image shows
TEXT_PREFIX = "text-"


@dataclass(frozen=True, slots=True)
class Lore:
    """What texts tell about one entity.

    Attributes:
        therapy: by its entry.
        visit: by the guideline for its own grade.
        other_grade, other_visit: what the guideline for another grade says.
        old: therapy and visit by the outdated texts; None for an entity that has none.
    """

    therapy: str
    visit: str
    other_grade: str
    other_visit: str
    old: tuple[str, str] | None


class Library:
    """The texts of a hospital and the questions that need them.

    `Query.need` of its questions:

    - ``document``: the therapy of the entity that the question names.
    - ``image_document``: the therapy, where the question names modality and finding and only the image shows the dye.
    - ``report_document``: the next visit of the entity that the question names; the guidelines say it by grade, and only a
      report tells the grade. Guidelines alone leave two answers.

    Args:
        seed: of the hospital.
        entities: what it treats.
    """

    def __init__(self, seed: int, entities: Sequence[Entity]) -> None:
        self.entities = entities
        self.lore = _draw_lore(np.random.default_rng([seed, 4]), entities)
        self.documents = self._write(np.random.default_rng([seed, 6]))

    def ask(self, entity: Entity, rng: np.random.Generator) -> list[Item]:
        """The questions of one study of `entity` that texts answer."""
        lore, number = self.lore[entity.number], entity.number
        entry, rule = _id(number, "entry"), _id(number, "rule")
        old_entry, old_rule = ((_id(number, f"old-{kind}"),) if lore.old else () for kind in ("entry", "rule"))
        known = f"{entity.modality} {entity.finding}"
        items = [_item("document", entity.name, "therapy", lore.therapy, rng.random() < CLOSED_SHARE, entry, old_entry)]
        items.append(_item("image_document", known, "therapy", lore.therapy, True, entry, old_entry))
        items.append(_item("report_document", entity.name, "visit", lore.visit, True, rule, old_rule))
        if rng.random() < OPEN_SHARE:
            items.append(_item("image_document", known, "therapy", lore.therapy, False, entry, old_entry))
            items.append(_item("report_document", entity.name, "visit", lore.visit, False, rule, old_rule))
        return items

    def _write(self, rng: np.random.Generator) -> list[Document]:
        """Every text, entity by entity."""
        taken = {entity.name for entity in self.entities}
        documents: list[Document] = []
        for entity in self.entities:
            lore, name, grade = self.lore[entity.number], entity.name, entity.facts["grade"]
            told = {
                "entry": f"entry {name} therapy {lore.therapy}",
                "aside": f"entry {name} first seen by doctor {rng.choice(DOCTORS)}",
                "rule": f"guideline {name} grade {grade} visit {lore.visit}",
                "other-rule": f"guideline {name} grade {lore.other_grade} visit {lore.other_visit}",
            }
            if lore.old:
                told["old-entry"] = f"outdated entry {name} therapy {lore.old[0]}"
                told["old-rule"] = f"outdated guideline {name} grade {grade} visit {lore.old[1]}"
            look_alikes = [other for dye in DYES if (other := f"{entity.modality} {entity.finding} {dye}") not in taken]
            if look_alikes and rng.random() < LOOK_ALIKE_SHARE:
                other = str(rng.choice(look_alikes))
                taken.add(other)
                told["look-alike"] = f"entry {other} therapy {rng.choice(TEXT_FACTS['therapy'])}"
            documents += [_document(entity, kind, words) for kind, words in told.items()]
        return documents


def is_text(document_id: str) -> bool:
    """Whether an id of the hospital's evidence is that of a text without an image."""
    return document_id.startswith(TEXT_PREFIX)


def _draw_lore(rng: np.random.Generator, entities: Sequence[Entity]) -> Mapping[int, Lore]:
    """What texts tell about each entity, by its number; the values of a fact are equally frequent within a split."""
    lore: dict[int, Lore] = {}
    for split in Split:
        mine = [entity for entity in entities if entity.split is split]
        values = {name: [told[i % len(told)] for i in rng.permutation(len(mine))] for name, told in TEXT_FACTS.items()}
        for place, entity in enumerate(mine):
            therapy, visit = values["therapy"][place], values["visit"][place]
            old = (_another("therapy", therapy, rng), _another("visit", visit, rng))
            other_grade = str(rng.choice([grade for grade in FACTS["grade"] if grade != entity.facts["grade"]]))
            outdated = rng.random() < OUTDATED_SHARE
            other_visit = _another("visit", visit, rng)
            lore[entity.number] = Lore(therapy, visit, other_grade, other_visit, old if outdated else None)
    return lore


def _another(fact: str, value: str, rng: np.random.Generator) -> str:
    return str(rng.choice([other for other in TEXT_FACTS[fact] if other != value]))


def _id(number: int, kind: str) -> str:
    return f"{TEXT_PREFIX}{MARK}-e{number:04d}-{kind}"


def _document(entity: Entity, kind: str, words: str) -> Document:
    source = GUIDELINES if kind.endswith("rule") else ENCYCLOPAEDIA
    number = _id(entity.number, kind)
    return Document(number, f"{MARK} {words}", modality=entity.modality, source=source, license=MARK)


def _item(need: str, named: str, fact: str, answer: str, closed: bool, text: str, old: tuple[str, ...]) -> Item:
    question = f"{named} , {'which' if closed else 'what'} {fact}?"
    told = "grade" if need == "report_document" else None  # what a report must tell
    return Item(need, question, answer, TEXT_FACTS[fact] if closed else (), told, (text,), old)
