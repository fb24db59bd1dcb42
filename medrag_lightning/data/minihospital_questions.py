"""What the synthetic hospital knows and asks: entities with facts, reports, and questions typed by the evidence they need.

An *entity* is a disease variant: a modality, a finding and a dye, which a picture shows, and *facts* (a grade), which
only a report tells. Facts are drawn per entity and entities are dealt to splits, so that what a reader remembers of its
training patients says nothing about a test patient: it must read the report of another patient with the same entity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medrag_lightning.data.minihospital_images import DYES, FINDINGS, MODALITIES, SIDES, Look
from medrag_lightning.records import Split

NEEDS = ("image", "report", "either", "both", "none", "poisoned")
MARK = "synthetic"
FACTS = {"grade": ("one", "two", "three", "four", "five", "six")}
CLINICS = ("chest", "heart", "brain", "bone")
CLINIC_OF = {finding: CLINICS[number % len(CLINICS)] for number, finding in enumerate(FINDINGS)}
YES_NO = ("yes", "no")
CHOICE_COUNT = 4
CLOSED_SHARE = 0.6  # of the `report` and `none` questions
CLINIC_SHARE = 0.3
YES_NO_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Entity:
    """A disease variant. `number` is -1 for one that exists only in a mixed-up report.

    `subtle`: its findings are faint. `mixed_up`: reports of its look-alikes are wrong, so that its finding questions may be
    ``poisoned``; only subtle entities are.
    """

    number: int
    split: Split
    modality: str
    finding: str
    dye: str
    facts: Mapping[str, str]
    subtle: bool = False
    mixed_up: bool = False

    @property
    def report(self) -> str:
        """The report of a study of this entity, marked as synthetic."""
        return f"{MARK} {self.name} dye grade {self.facts['grade']}"

    def caption(self, number: int) -> str:
        """Modality and finding, without dye and facts, in one of four wordings; marked as synthetic."""
        wording = ("{0} {1} {2}", "{0} {2} on {1}", "{0} {1} film with {2}", "{0} case of {2} {1}")[number % 4]
        return wording.format(MARK, self.modality, self.finding)

    @property
    def name(self) -> str:
        """How a question names it."""
        return f"{self.modality} {self.finding} {self.dye}"


@dataclass(frozen=True, slots=True)
class Patient:
    """One patient. `asks`: its studies carry questions; `files`: its studies are evidence."""

    id: str
    entity: Entity
    asks: bool
    files: bool


@dataclass(frozen=True, slots=True)
class Study:
    """One image and its report. `told` is what the report states: the patient's own entity unless reports were mixed up.

    `resembles` is the id of the study that a mixed-up study is a near-duplicate of.
    """

    id: str
    patient: Patient
    look: Look
    told: Entity
    resembles: str | None = None

    @property
    def truthful(self) -> bool:
        """Whether the report fits the image."""
        return self.told is self.patient.entity


@dataclass(frozen=True, slots=True)
class Item:
    """A question before it is a record. `choices` is empty for an open one.

    `fact` names the fact that a report must tell, if any.
    `texts` are the ids of texts without image that answer it, `old_texts` those of outdated ones that say otherwise.
    """

    need: str
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    fact: str | None = None
    texts: tuple[str, ...] = ()
    old_texts: tuple[str, ...] = ()


def deal_entities(
    rng: np.random.Generator, counts: Mapping[Split, int], subtle_share: float, mixed_up_share: float
) -> list[Entity]:
    """Entities for each split, no two alike, findings and facts balanced within a split, some of them subtle or mixed up."""
    places = _places(rng)
    entities: list[Entity] = []
    for split, count in counts.items():
        facts = {name: [values[i % len(values)] for i in rng.permutation(count)] for name, values in FACTS.items()}
        subtle, mixed = round(subtle_share * count), round(mixed_up_share * count)
        rank = rng.permutation(count)
        for i in range(count):
            told = {name: facts[name][i] for name in FACTS}
            traits = places[len(entities)]
            entities.append(Entity(len(entities), split, *traits, told, bool(rank[i] < subtle), bool(rank[i] < mixed)))
    return entities


def _places(rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """All (modality, finding, dye) that an entity may have, findings in turn; each (modality, dye) keeps `FREE` unused."""
    cells = [(modality, dye) for modality in MODALITIES for dye in DYES]
    names = [str(name) for name in rng.permutation(list(FINDINGS))]
    shift = rng.permutation(len(cells))
    columns = []
    for number, name in enumerate(names):
        open_cells = [cell for place, cell in zip(shift, cells, strict=True) if (number + place) % len(names) >= FREE]
        columns.append([(open_cells[i][0], name, open_cells[i][1]) for i in rng.permutation(len(open_cells))])
    return [place for row in zip(*columns, strict=True) for place in row]


FREE = 3  # findings of each (modality, dye) that only mixed-up reports state
MAX_ENTITIES = len(MODALITIES) * len(DYES) * (len(FINDINGS) - FREE)


def mixed_up(entity: Entity, taken: set[str], rng: np.random.Generator) -> Entity:
    """What a wrong report states about a look-alike of `entity`: another finding and other facts, of no entity in `taken`."""
    wrong = [name for name in FINDINGS if name != entity.finding]
    free = [name for name in wrong if f"{entity.modality} {name} {entity.dye}" not in taken]
    facts = {
        name: str(rng.choice([value for value in values if value != entity.facts[name]])) for name, values in FACTS.items()
    }
    return Entity(-1, entity.split, entity.modality, str(rng.choice(free)), entity.dye, facts)


def ask(study: Study, wrong: Entity | None, rng: np.random.Generator) -> list[Item]:
    """The questions of one study. `wrong` is what the mixed-up report of its look-alike states, if there is one."""
    entity = study.patient.entity
    items = [*_side(study.look.side, rng), *_finding(entity.finding, wrong, rng)]
    items += [_grade("both", entity, True), _grade("both", entity, False)]
    items.append(_grade("report", entity, rng.random() < CLOSED_SHARE, f"{entity.name} , "))
    if rng.random() < CLINIC_SHARE:
        choices = CLINICS if rng.random() < CLOSED_SHARE else ()
        items.append(Item("none", f"{entity.finding} , which clinic?", CLINIC_OF[entity.finding], choices))
    return items


def _side(side: str, rng: np.random.Generator) -> list[Item]:
    """Two of three questions about the place of the finding."""
    items = [
        Item("image", "which side?", side, SIDES),
        Item("image", "where is it?", side),
        Item("image", "is it on the left?", YES_NO[side != "left"], YES_NO),
    ]
    del items[int(rng.integers(len(items)))]
    return items


def _finding(finding: str, wrong: Entity | None, rng: np.random.Generator) -> list[Item]:
    """A multiple-choice and an open question, and sometimes one for yes or no; a mixed-up report is wrong on all of them."""
    need = "either" if wrong is None else "poisoned"
    others = [name for name in FINDINGS if name != finding and (wrong is None or name != wrong.finding)]
    first = str(rng.choice(others)) if wrong is None else wrong.finding
    rest = [str(name) for name in rng.choice([n for n in others if n != first], CHOICE_COUNT - 2, replace=False)]
    choices = tuple(str(name) for name in rng.permutation([finding, first, *rest]))
    items = [Item(need, "which finding?", finding, choices), Item(need, "what is seen?", finding)]
    if rng.random() < YES_NO_SHARE:
        yes = rng.random() < 0.5
        items.append(Item(need, f"is it {finding if yes else first} ?", YES_NO[not yes], YES_NO))
    return items


def _grade(need: str, entity: Entity, closed: bool, lead: str = "") -> Item:
    question = f"{lead}which grade?" if closed else f"{lead}how severe?"
    return Item(need, question, entity.facts["grade"], FACTS["grade"] if closed else (), "grade")
