"""A rule-based expert of the synthetic hospital: it sees every image perfectly, and errs as often as it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from medrag_lightning.artifacts import counter_rng, fingerprint
from medrag_lightning.data.minihospital import MiniHospital
from medrag_lightning.data.minihospital_corpora import CORPORA, PLACES, FiveCorpora, asked_fact
from medrag_lightning.data.minihospital_images import DYES
from medrag_lightning.data.minihospital_questions import Entity
from medrag_lightning.data.minihospital_texts import is_text
from medrag_lightning.interfaces import ExploreTask, JudgeTask
from medrag_lightning.records import Query, format_searches

RULES = 1  # raise it with every change of what the expert writes
TEMPLATES = (
    "{word} of {name}",
    "{name} {word}",
    "{word} in {name}",
    "reported {word} of {name}",
    "{name} and its {word}",
    "known {word} of {name}",
    "{name} , the {word}",
    "{word} for {name}",
    "any {word} of {name}",
    "{name} with {word}",
)
RELATIONS = ("{word}", "{plain}", "is {plain}", "often {plain}", "{plain} what", "known as {plain}")
ERRORS = ("no_dye", "wrong_dye", "question_word", "other_fact", "general")
FACTS_OF = {corpus: [name for name, place in PLACES.items() if place.corpus == corpus] for corpus in CORPORA}
MOST_TRIES = 200  # for a wording that is not there yet


class MiniHospitalExpert:
    """Writes searches for the five corpora and judges what they find (`interfaces.Expert`), by rules instead of a model.

    A good wording names the entity, dye and all, as the image shows it, and the corpus's own word for what is asked; of a
    corpus that does not tell it, one of the words that it has. An erring one leaves the dye out or takes a wrong one, keeps
    the question's word, asks for another fact or for the finding alone: some of them find the right text by luck. It never
    reads the answer. As a judge it says yes where a text that is known to answer the question is among the documents.

    Everything is drawn from the seed, the question and what it is asked for: the same task always gets the same reply.

    Args:
        hospital: with ``texts: true`` and ``corpora: five``; the one whose questions are explored.
        wrong_share: of the wordings, that err.
        judge_error: share of the judgements that say the opposite.
        malformed_share: of the texts, that cannot be read as they should: a tag is missing, stays open, or holds another.
        seed: of its errors.
    """

    def __init__(
        self,
        hospital: MiniHospital,
        wrong_share: float = 0.5,
        judge_error: float = 0.0,
        malformed_share: float = 0.0,
        seed: int = 0,
    ) -> None:
        for name, share in {"wrong_share": wrong_share, "judge_error": judge_error, "malformed_share": malformed_share}.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is a share, from 0 to 1, got {share}")
        if not isinstance(hospital.library, FiveCorpora):
            raise ValueError("MiniHospitalExpert knows five corpora: give its hospital texts: true and corpora: five")
        self.hospital, self.seed = hospital, seed
        self.wrong_share, self.judge_error, self.malformed_share = wrong_share, judge_error, malformed_share

    def explore(self, tasks: Sequence[ExploreTask]) -> list[str]:
        """Tags with `count` different queries for each corpus (fewer where it has no more to say), or a text that is malformed.

        Raises:
            ValueError: a task is of another hospital, or names a corpus that this one does not have.
        """
        return [self._explored(task) for task in tasks]

    def judge(self, tasks: Sequence[JudgeTask]) -> list[str]:
        """A sentence and its verdict; ValueError for a question of another hospital."""
        return [self._judged(task) for task in tasks]

    def fingerprint(self) -> str:
        """Hospital, shares and seed."""
        shares = [self.wrong_share, self.judge_error, self.malformed_share]
        return fingerprint("mini-hospital expert", RULES, self.hospital.fingerprint(), shares, self.seed)

    @cached_property
    def _entity_of(self) -> dict[str, Entity]:
        """By study: what its image shows."""
        return {study.id: study.patient.entity for study in self.hospital.studies}

    @cached_property
    def _gold_of(self) -> dict[str, frozenset[str]]:
        """By question: the texts that answer it."""
        return {query.id: frozenset(filter(is_text, query.relevant_ids)) for query in self.hospital.queries()}

    def _seen(self, query: Query) -> Entity:
        entity = self._entity_of.get(query.study_id or "")
        file = Path(query.image.path).name if query.image else ""
        if entity is None or file != self.hospital.image_file.name:  # names of studies are the same in every hospital
            raise ValueError(
                f"question {query.id!r} (study {query.study_id!r}, images in {file!r}) is not of the expert's mini-hospital "
                f"({self.hospital.image_file.name}); give both the same settings"
            )
        return entity

    def _explored(self, task: ExploreTask) -> str:
        entity, fact = self._seen(task.query), asked_fact(task.query.question)
        if unknown := sorted(set(task.corpora) - set(CORPORA)):
            raise ValueError(f"MiniHospitalExpert knows no corpus {unknown[0]!r}; the mini-hospital has {', '.join(CORPORA)}")
        wordings = {}
        for corpus in task.corpora:
            rng, mine = counter_rng(self.seed, "explore", task.query.id, corpus, task.attempt), dict[str, None]()
            for _ in range(MOST_TRIES):
                mine[self._wording(rng, entity, corpus, fact)] = None
                if len(mine) == task.count:
                    break
            wordings[corpus] = list(mine)
        text = format_searches(wordings, list(task.corpora))
        rng = counter_rng(self.seed, "malformed", task.query.id, task.attempt)
        return _malformed(text, list(task.corpora), rng) if rng.random() < self.malformed_share else text

    def _wording(self, rng: np.random.Generator, entity: Entity, corpus: str, fact: str | None) -> str:
        """One query, good or erring."""
        error = _one(rng, ERRORS) if rng.random() < self.wrong_share else ""
        own = FACTS_OF[corpus]
        meant = fact if fact in own else _one(rng, own)
        if error == "other_fact":
            meant = _one(rng, [name for name in own if name != meant] or own)
        dye = _one(rng, [dye for dye in DYES if dye != entity.dye]) if error == "wrong_dye" else entity.dye
        seen = {"no_dye": (entity.modality, entity.finding), "general": (entity.finding,)}
        name = " ".join(seen.get(error, (entity.modality, entity.finding, dye)))
        lay = error in ("question_word", "general")
        place = PLACES[meant]
        word = (fact or meant) if lay else place.word
        if corpus == "graph":
            relation = _one(rng, RELATIONS).format(word=word, plain=word.replace("_", " "))
            return f"{name}{'' if lay else place.suffix} , {relation}"
        return _one(rng, TEMPLATES).format(word=word, name=name)

    def _judged(self, task: JudgeTask) -> str:
        self._seen(task.query)
        gold = self._gold_of[task.query.id]
        supports = any(document.id in gold for document in task.documents)
        flipped = counter_rng(self.seed, "judge", task.query.id, task.corpus, task.words).random() < self.judge_error
        verdict = "yes" if supports != flipped else "no"
        return f"{len(task.documents)} documents were held against the answer: {verdict}"


def _one(rng: np.random.Generator, options: Sequence[str]) -> str:
    """Any of them; quicker than `Generator.choice`, which makes an array."""
    return options[int(rng.integers(len(options)))]


def _malformed(text: str, corpora: Sequence[str], rng: np.random.Generator) -> str:
    """`text` with one tag gone, left open, or put inside another, or no tags at all."""
    name, kind = _one(rng, corpora), int(rng.integers(4))
    if kind == 0:
        return "\n".join(line for line in text.splitlines() if not line.startswith(f"<{name}>"))
    if kind == 1:
        return text.replace(f"</{name}>", "")
    if kind == 2:
        return text.replace(f"<{name}>", f"<{name}><{name}>")
    return "I would look for the finding in the usual places."
