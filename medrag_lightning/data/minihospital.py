"""The mini-hospital: a generated, synthetic world whose right answers, right evidence and best accuracy are known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from medrag_lightning.artifacts import atomic_write, fingerprint
from medrag_lightning.data.minihospital_corpora import FiveCorpora
from medrag_lightning.data.minihospital_dialogues import as_follow_up
from medrag_lightning.data.minihospital_images import CLEAR, FAINT, SIDES, Look, draw
from medrag_lightning.data.minihospital_questions import (
    MARK,
    MAX_ENTITIES,
    YES_NO,
    Entity,
    Item,
    Patient,
    Study,
    ask,
    deal_entities,
    mixed_up,
)
from medrag_lightning.data.minihospital_texts import Library
from medrag_lightning.records import AnswerType, Document, ImageRef, Query, Split

GENERATOR = 1  # raise it with every change of the drawing code
SOURCE = "minihospital (synthetic)"
LICENSE = MARK
MIN_SIZE = 24
PATIENTS_PER_ENTITY = 6
ASKING_PER_HELD_OUT_ENTITY = 2  # the other patients of a validation or test entity are evidence only
SUBTLE_SHARE = 0.45
MIXED_UP_SHARE = 0.3
SECOND_STUDY_SHARE = 0.25
VICTIMS_PER_ENTITY = 2
FULL_EVERY = 8  # documents of an entity, one of which has its report where reports are sparse
Reports = Literal["full", "sparse"]
Corpora = Literal["two", "five"]


class MiniHospital:
    """A synthetic hospital as a `Table`: images, reports and questions whose answers are known by construction.

    `Query.need` says what a question takes:

    - ``image``: the side of the finding, which no report tells.
    - ``either``: the finding, which the image shows and the reports of the same entity state.
    - ``poisoned``: the same, where a near-duplicate of the image is filed under a wrong report.
    - ``both``: a fact of what the image shows; the image says which report, only the report says the fact.
    - ``report``: a fact of the entity that the question names.
    - ``none``: general knowledge (which clinic treats a finding).
    - with `texts` also ``document``, ``image_document`` and ``report_document`` (`minihospital_texts.Library`).

    Facts belong to entities, and no entity is in two splits. The evidence is every training study, the studies of held-out
    patients who ask nothing, and the mixed-up studies. Nothing here is medical data, and nothing may be concluded from it.

    Args:
        seed: which hospital.
        size: number of patients, mixed-up ones aside; at least 24.
        folder: where the images are written, once for each (seed, size); later uses and other processes share them.
        reports: ``full``, or ``sparse``: of the documents of an entity only one in eight (the first) has its report, the others
            have captions of modality and finding. They look alike and match as well, but questions about facts need the report:
            what a retriever can learn from its reader, not from image-text pairs.
        texts: whether there are also texts without images, an encyclopaedia and guidelines, and questions that need them. All
            else stays as it is.
        corpora: of the texts: ``two``, or ``five`` (`minihospital_corpora`): each says facts of its own in words of its own, so
            that searches must be written for it.
        dialogues: whether questions that name an entity are follow-ups in a dialogue whose history names it
            (`minihospital_dialogues`). All else stays as it is.
    """

    def __init__(
        self,
        seed: int = 0,
        size: int = 1152,
        folder: str = "runs/minihospital",
        reports: Reports = "full",
        texts: bool = False,
        corpora: Corpora = "two",
        dialogues: bool = False,
    ) -> None:
        if size < MIN_SIZE:
            raise ValueError(f"a mini-hospital needs at least {MIN_SIZE} patients, got size={size}")
        if seed < 0:
            raise ValueError(f"the seed of a mini-hospital must not be negative, got {seed}")
        if reports not in get_args(Reports):
            raise ValueError(f"reports must be one of {', '.join(get_args(Reports))}, got {reports!r}")
        if corpora not in get_args(Corpora):
            raise ValueError(f"corpora must be one of {', '.join(get_args(Corpora))}, got {corpora!r}")
        if corpora == "five" and not texts:
            raise ValueError("corpora: five would be ignored: a mini-hospital has them with texts: true")
        self.seed, self.size, self.folder, self.reports, self.dialogues = seed, size, Path(folder), reports, dialogues
        self.entities = deal_entities(np.random.default_rng([seed, 0]), _entity_counts(size), SUBTLE_SHARE, MIXED_UP_SHARE)
        self.patients = self._admit()
        self.studies = self._examine()
        self._place = {study.id: number for number, study in enumerate(self.studies)}
        library = FiveCorpora if corpora == "five" else Library
        self.library = library(seed, self.entities) if texts else None

    def fingerprint(self) -> str:
        """sha256 of the settings, of every study's traits and report, of one picture, which stands for the drawing code, and of
        the texts and dialogues where there are any."""
        told = [self._fingerprint, *(["dialogues"] if self.dialogues else [])]
        if self.library is None:
            return told[0] if len(told) == 1 else fingerprint(*told)
        return fingerprint(*told, [[document.id, document.text] for document in self.library.documents])

    @property
    def image_file(self) -> Path:
        """The ``.npz`` file of all images, one array ``images`` (studies, 64, 64, 3) uint8."""
        return self.folder / f"seed{self.seed}-size{self.size}-{self._fingerprint[:12]}.npz"

    def roots(self) -> list[Path]:
        """The folder of the images, which are written if they are not there yet."""
        self._write_images()
        return [self.folder]

    def documents(self) -> list[Document]:
        """The evidence: training studies, studies of patients who ask nothing, mixed-up studies; then the texts."""
        self._write_images()
        reports = [self._document(study) for study in self.studies if study.patient.files]
        return [*reports, *(self.library.documents if self.library else ())]

    def queries(self) -> list[Query]:
        """All questions, study by study."""
        self._write_images()
        evidence: dict[int, list[Study]] = defaultdict(list)
        for study in self.studies:
            if study.patient.files:
                evidence[study.patient.entity.number].append(study)
        wrong = {study.resembles: study.told for study in self.studies if study.resembles}
        made: list[Query] = []
        for study in self.studies:
            if not study.patient.asks:
                continue
            items = ask(study, wrong.get(study.id), np.random.default_rng([self.seed, 3, self._place[study.id]]))
            if self.library:
                items += self.library.ask(study.patient.entity, np.random.default_rng([self.seed, 5, self._place[study.id]]))
            related = evidence[study.patient.entity.number]
            asked = [self._query(study, number, item, related) for number, item in enumerate(items)]
            entity = study.patient.entity
            made += [as_follow_up(one, entity, self.entities, self.seed) for one in asked] if self.dialogues else asked
        return made

    @cached_property
    def _fingerprint(self) -> str:
        studies = [[study.id, str(study.look), study.told.report] for study in self.studies]
        return fingerprint("minihospital", GENERATOR, self.seed, self.size, studies, draw(self.studies[0].look, self.seed))

    @cached_property
    def _reported(self) -> set[str]:
        """The studies whose document is a report: all, or where reports are sparse one in so many of each entity.

        A mixed-up report is always one.
        """
        if self.reports == "full":
            return {study.id for study in self.studies}
        filed: dict[int, int] = defaultdict(int)
        reported = {study.id for study in self.studies if not study.truthful}
        for study in self.studies:
            if study.truthful and study.patient.files:
                if filed[study.patient.entity.number] % FULL_EVERY == 0:
                    reported.add(study.id)
                filed[study.patient.entity.number] += 1
        return reported

    def _admit(self) -> list[Patient]:
        patients = []
        for number in range(self.size):
            rank, place = divmod(number, len(self.entities))
            entity = self.entities[place]
            training = entity.split is Split.TRAIN
            asks = training or rank < ASKING_PER_HELD_OUT_ENTITY
            patients.append(Patient(f"{MARK}-p{number:05d}", entity, asks, files=training or not asks))
        return patients

    def _examine(self) -> list[Study]:
        rng = np.random.default_rng([self.seed, 1])
        studies: list[Study] = []
        for patient in self.patients:
            for _ in range(1 + int(rng.random() < SECOND_STUDY_SHARE)):
                studies.append(self._study(patient, len(studies), rng))
        taken = {entity.name for entity in self.entities}
        for study in _victims(studies):
            number = len(studies)
            stray = Patient(f"{MARK}-p{self.size + number:05d}", study.patient.entity, asks=False, files=True)
            look = Look(*_traits(study.look), noise=number)
            told = mixed_up(stray.entity, taken, rng)
            studies.append(Study(f"{MARK}-s{number:05d}", stray, look, told, resembles=study.id))
        return studies

    def _study(self, patient: Patient, number: int, rng: np.random.Generator) -> Study:
        entity = patient.entity
        strength = FAINT if entity.subtle else CLEAR
        side = str(rng.choice(SIDES))
        look = Look(entity.modality, entity.finding, entity.dye, side, strength, number)
        return Study(f"{MARK}-s{number:05d}", patient, look, entity)

    def _image(self, study: Study) -> ImageRef:
        return ImageRef(str(self.image_file), "images", self._place[study.id])

    def _document(self, study: Study) -> Document:
        return Document(
            id=f"doc-{study.id}",
            text=study.told.report if study.id in self._reported else study.told.caption(self._place[study.id]),
            image=self._image(study),
            patient_id=study.patient.id,
            study_id=study.id,
            modality=study.look.modality,
            source=SOURCE,
            license=LICENSE,
        )

    def _query(self, study: Study, number: int, item: Item, related: Sequence[Study]) -> Query:
        others = [other for other in related if other.patient.id != study.patient.id]
        useful = item.need in ("report", "either", "both", "poisoned", "report_document")
        tells = [o for o in others if o.id in self._reported] if item.fact is not None else others
        relevant = [other for other in tells if useful and other.truthful]
        poison = [other for other in others if useful and not other.truthful and states(other.told, item) != item.answer]
        texts = item.texts if relevant or not useful else ()  # a guideline helps nobody who does not know the grade
        return Query(
            id=f"{study.id}-q{number}",
            question=item.question,
            image=self._image(study),
            answer=item.answer,
            choices=item.choices,
            answer_type=AnswerType.CLOSED if item.choices else AnswerType.OPEN,
            split=study.patient.entity.split,
            patient_id=study.patient.id,
            study_id=study.id,
            modality=study.look.modality,
            source=SOURCE,
            need=item.need,
            relevant_ids=(*(f"doc-{other.id}" for other in relevant), *texts),
            poison_ids=(*(f"doc-{other.id}" for other in poison), *item.old_texts),
        )

    def _write_images(self) -> None:
        """Writes the images unless they are there. Processes that race write the same bytes, and the last rename wins."""
        if self.image_file.exists():
            return
        images = np.stack([draw(study.look, self.seed) for study in self.studies])
        with atomic_write(self.image_file) as stream:
            np.savez(stream, allow_pickle=False, images=images)


def _victims(studies: Sequence[Study]) -> list[Study]:
    """The studies that get a mixed-up near-duplicate: the first few that ask, of each entity whose reports are mixed up."""
    victims: dict[int, list[Study]] = defaultdict(list)
    for study in studies:
        if study.patient.asks and study.patient.entity.mixed_up:
            victims[study.patient.entity.number].append(study)
    return [study for group in victims.values() for study in group[:VICTIMS_PER_ENTITY]]


def states(entity: Entity, item: Item) -> str:
    """The answer that a report about `entity` gives to a question about a finding or a fact."""
    if item.fact is not None:
        return entity.facts[item.fact]
    if item.choices == YES_NO:
        return YES_NO[f"is it {entity.finding} ?" != item.question]
    return entity.finding


def _traits(look: Look) -> tuple[str, str, str, str, float]:
    return look.modality, look.finding, look.dye, look.side, look.strength


def _entity_counts(size: int) -> dict[Split, int]:
    total = min(size // PATIENTS_PER_ENTITY, MAX_ENTITIES)
    test, val = max(1, total // 6), max(1, total // 12)
    return {Split.TRAIN: total - val - test, Split.VAL: val, Split.TEST: test}
