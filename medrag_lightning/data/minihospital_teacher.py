"""A rule-based teacher of the synthetic hospital: it sees every image perfectly, reads its evidence, errs as it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from medrag_lightning.artifacts import counter_rng, fingerprint
from medrag_lightning.data.minihospital import MiniHospital
from medrag_lightning.data.minihospital_corpora import asked_fact
from medrag_lightning.data.minihospital_evidence import contradicts, first_said, is_outdated, names, said
from medrag_lightning.data.minihospital_images import FINDINGS, SIDES
from medrag_lightning.data.minihospital_questions import CLINIC_OF, CLINICS, FACTS, YES_NO, Study
from medrag_lightning.data.minihospital_texts import NUMBERS
from medrag_lightning.interfaces import TraceTask
from medrag_lightning.records import Kept, Query
from medrag_lightning.records.traces import format_kept, on_one_line

RULES = 1  # raise it with every change of what the teacher writes


class MiniHospitalTeacher:
    """Writes the four steps of a trace by rules instead of a model (`interfaces.Teacher`).

    It keeps, word for word, the parts of texts and reports that tell what is asked about the entity of the image, and leaves
    out look-alikes, other findings and what says of itself that it is out of date; at least one text and one image always. It
    answers what the image shows or the kept evidence tells, guesses where neither does, and criticises its first answer by
    the evidence. It never reads the right answer unless a gold-aware trace tells it.

    Everything is drawn from the seed, the question, the step and the attempt: the same task always gets the same reply.

    Args:
        hospital: the one whose questions are traced.
        wrong_share: of the pieces of evidence, that are kept though they do not help, or left out though they do.
        initial_error: share of first answers that are another one than what it knows.
        malformed_share: of the rearrangements, that cannot be used: not word for word, or a number that is not there.
        failed_share: of all calls, that fail.
        seed: of its errors.
    """

    def __init__(
        self,
        hospital: MiniHospital,
        wrong_share: float = 0.0,
        initial_error: float = 0.3,
        malformed_share: float = 0.0,
        failed_share: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._shares = {
            "wrong_share": wrong_share,
            "initial_error": initial_error,
            "malformed_share": malformed_share,
            "failed_share": failed_share,
        }
        for name, share in self._shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is a share, from 0 to 1, got {share}")
        self.hospital, self.seed = hospital, seed
        self.wrong_share, self.initial_error = wrong_share, initial_error
        self.malformed_share, self.failed_share = malformed_share, failed_share

    def write(self, tasks: Sequence[TraceTask]) -> list[str | None]:
        """What stands between the tags of each task's step, None for a call that fails.

        Raises:
            ValueError: a task is of another hospital.
        """
        return [self._written(task) for task in tasks]

    def fingerprint(self) -> str:
        """Hospital, shares and seed."""
        return fingerprint("mini-hospital teacher", RULES, self.hospital.fingerprint(), self._shares, self.seed)

    @cached_property
    def _studies(self) -> dict[str, Study]:
        return {study.id: study for study in self.hospital.studies}

    def _study(self, query: Query) -> Study:
        study = self._studies.get(query.study_id or "")
        file = Path(query.image.path).name if query.image else ""
        if study is None or file != self.hospital.image_file.name:  # names of studies are the same in every hospital
            raise ValueError(
                f"question {query.id!r} (study {query.study_id!r}, images in {file!r}) is not of the teacher's mini-hospital "
                f"({self.hospital.image_file.name}); give both the same settings"
            )
        return study

    def _rng(self, what: str, task: TraceTask, *more: str) -> np.random.Generator:
        return counter_rng(self.seed, what, task.step, task.query.id, task.attempt, *more)

    def _written(self, task: TraceTask) -> str | None:
        study = self._study(task.query)
        if self._rng("failed", task).random() < self.failed_share:
            return None
        if task.step == "rearrange":
            kept = format_kept(self._kept(task, study))
            rng = self._rng("malformed", task)
            return _malformed(kept, len(task.documents), rng) if rng.random() < self.malformed_share else kept
        number, value = self._known(task, study)
        if task.step == "initial":
            return self._first(task, value)
        assert task.initial is not None
        if task.step == "rethink":
            return _critique(task.initial, number, value)
        return task.gold or value or task.initial

    def _kept(self, task: TraceTask, study: Study) -> list[Kept]:
        """What tells the asked fact, in the order found; then at least one text and one image, the likeliest to help."""
        entity, facts = study.patient.entity, _facts(task.query.question)
        texts = [document.text for document in task.documents]
        known = first_said([text for text in texts if not is_outdated(text)], entity, "grade") if "visit" in facts else None
        grade = None if known is None else known[1]
        kept: dict[int, str] = {}
        for number, text in enumerate(texts, 1):
            told = [found[1] for fact in facts if (found := said(text, entity, fact, grade)) is not None]
            good = bool(told) and not is_outdated(text)
            wrong = self._rng("keep", task, task.documents[number - 1].id).random() < self.wrong_share
            if good is not wrong:
                kept[number] = told[0] if told else on_one_line(text)
        by_use = sorted(
            range(len(texts)), key=lambda place: (contradicts(texts[place], entity), not names(texts[place], entity))
        )
        if any(texts) and not any(kept.values()):
            place = next(place for place in by_use if texts[place])
            kept[place + 1] = on_one_line(texts[place])
        images = [document.image is not None for document in task.documents]
        if any(images) and not any(images[number - 1] for number in kept):
            kept[next(place for place in by_use if images[place]) + 1] = ""
        return [Kept(number, text) for number, text in kept.items()]

    def _known(self, task: TraceTask, study: Study) -> tuple[int | None, str | None]:
        """The answer that image or kept evidence gives, and the number of that evidence; None for what they do not tell."""
        if (seen := _seen(task.query.question, study)) is not None:
            return None, seen
        kept = [one for one in task.kept or () if one.text]
        found = first_said([one.text for one in kept], study.patient.entity, _facts(task.query.question)[0])
        return (None, None) if found is None else (kept[found[0]].number, found[1])

    def _first(self, task: TraceTask, value: str | None) -> str:
        options, rng = _options(task.query), self._rng("answer", task)
        if value is None:
            return _one(rng, options)
        if rng.random() < self.initial_error:
            return _one(rng, [other for other in options if other != value])
        return value


def _facts(question: str) -> list[str]:
    """What evidence may tell towards the answer: what is asked first; none for what no evidence tells."""
    asked = asked_fact(question)
    if asked is not None:
        return [asked, "grade"] if asked == "visit" else [asked]
    if question.endswith(("which grade?", "how severe?")):
        return ["grade"]
    finding = question in ("which finding?", "what is seen?") or any(question == f"is it {name} ?" for name in FINDINGS)
    return ["finding"] if finding else []


def _seen(question: str, study: Study) -> str | None:
    """What the image, or what every physician knows, answers; None for a question that takes evidence."""
    finding, side = study.patient.entity.finding, study.look.side
    if question in ("which side?", "where is it?"):
        return side
    if question == "is it on the left?":
        return YES_NO[side != "left"]
    if question.endswith("which clinic?"):
        return CLINIC_OF[finding]
    if _facts(question) == ["finding"]:
        return YES_NO[f"is it {finding} ?" != question] if question.startswith("is it") else finding
    return None


def _options(query: Query) -> Sequence[str]:
    """The answers that the question may have."""
    if query.choices:
        return query.choices
    if query.question == "where is it?":
        return SIDES
    if query.question.endswith("which clinic?"):
        return CLINICS
    if (facts := _facts(query.question)) == ["finding"]:
        return list(FINDINGS)
    return FACTS["grade"] if facts == ["grade"] else NUMBERS


def _critique(initial: str, number: int | None, value: str | None) -> str:
    if value is None:
        return f"1. No evidence tells it.\n2. The first answer, {initial}, is a guess."
    source = "The image shows it" if number is None else f"Evidence {number} tells it"
    fits = "fits" if initial == value else "does not fit"
    return f"1. {source}: {value}.\n2. The first answer, {initial}, {fits}."


def _malformed(kept: str, count: int, rng: np.random.Generator) -> str:
    """A rearrangement that says more than the evidence does, or keeps what is not there; or nothing of a form."""
    kind = int(rng.integers(3))
    if kind == 0 and kept.strip():
        return f"{kept.strip()} and so it is\n"
    return f"\n[{count + 1}] not retrieved\n" if kind == 1 else "I would keep the first one."


def _one(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]
