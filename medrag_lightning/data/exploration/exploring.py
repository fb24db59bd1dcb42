"""From questions to what a query generator learns: explore, retrieve, judge, choose (HeteroRAG, MQG, steps 1 to 3).

replies/explore, replies/judge   the expert's own words, as they came
targets/                         texts to learn (`search_files`), for SFT
pairs/                           preference pairs (`preference_files`), for DPO
samples.jsonl, samples.html      some questions to look at
statistics.json                  how it came about; written last
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medrag_lightning.artifacts import fingerprint, read_json, write_json
from medrag_lightning.data.exploration.asking import Asking, Explored
from medrag_lightning.data.exploration.counting import counted, judge_agreement
from medrag_lightning.data.exploration.finding import described, find
from medrag_lightning.data.exploration.lessons import Lesson, lesson
from medrag_lightning.data.exploration.plan import ExplorationPlan
from medrag_lightning.data.exploration.samples import write_samples
from medrag_lightning.data.exploration.verdicts import Judged, judge
from medrag_lightning.data.replies import Replies
from medrag_lightning.interfaces import CandidateSource, Expert, OpenImage
from medrag_lightning.preference_files import is_there, read_preferences, write_preferences
from medrag_lightning.records import Document, Query, Split
from medrag_lightning.score_files import documents_fingerprint, query_fingerprint
from medrag_lightning.search_files import read_searches, searches_are_there, write_searches

logger = logging.getLogger(__name__)
STATISTICS = "statistics.json"
SETTINGS = ("queries_per_corpus", "top", "most_attempts", "targets_per_query", "pairs_per_query", "pairs", "no_support")


@dataclass(frozen=True, slots=True)
class Ground:
    """Where an expert explores: the questions of each split, the corpus, its loaded source, and the seed of every draw."""

    queries: Mapping[Split, Sequence[Query]]
    documents: Sequence[Document]
    source: CandidateSource
    open_image: OpenImage
    seed: int


@dataclass(frozen=True, slots=True)
class Exploration:
    """What lies in `folder` by now. `asked`: tasks that the expert was given for it this time; 0 where all was there."""

    folder: Path
    statistics: Mapping[str, Any]
    asked: int


def explore_or_read(ground: Ground, plan: ExplorationPlan) -> Exploration:
    """What a query generator learns from, in `plan.folder`; it is made where it is not there yet.

    Every reply of the expert is kept at once, so that an interrupted exploration goes on where it was, and one that is chosen
    from otherwise (with ``targets`` and ``pairs`` deleted) asks nobody.

    Raises:
        ValueError: there is no expert, nothing to search, or the folder holds an exploration of something else, which stays.
    """
    if plan.expert is None:
        raise ValueError("exploration.expert is not set: name who writes and judges, such as models.vlm_expert.VlmExpert")
    corpora = described(ground.source, plan.corpora)
    identity = identity_of(ground, plan, plan.expert, corpora)
    folder = Path(plan.folder)
    if _is_made(plan, identity):
        return Exploration(folder, read_json(folder / STATISTICS), 0)
    made = _Exploring(ground, plan, plan.expert, corpora)
    lessons, told = made.lessons, made.statistics()
    write_searches(plan.targets, [row for mine in lessons.values() for one in mine for row in one.rows], identity)
    pairs = {split: [pair for one in mine for pair in one.pairs] for split, mine in lessons.items()}
    write_preferences(plan.preferences, pairs, identity, told)
    write_samples(folder, [one for mine in lessons.values() for one in mine], made.judged, plan.samples, ground.seed)
    write_json(folder / STATISTICS, told)
    if not any(one.rows for mine in lessons.values() for one in mine):
        logger.warning("no search found what supports an answer: there is nothing to learn from; look at samples.html")
    return Exploration(folder, told, made.asked)


def identity_of(ground: Ground, plan: ExplorationPlan, expert: Expert, corpora: Mapping[str, str]) -> dict[str, Any]:
    """What targets and pairs depend on, by name, as plain JSON."""
    asked = [query_fingerprint(query) for split in plan.splits for query in ground.queries[Split(split)]]
    return {
        "made_by": "exploration",
        "expert": expert.fingerprint(),
        "corpora": list(corpora),
        "descriptions": dict(corpora),
        "settings": {**{name: getattr(plan, name) for name in SETTINGS}, "splits": list(plan.splits)},
        "questions": fingerprint(asked),
        "corpus": documents_fingerprint(ground.documents),
        "source": ground.source.fingerprint(),
        "seed": ground.seed,
    }


class _Exploring:
    """One run over the questions that can be judged: those with a gold answer."""

    def __init__(self, ground: Ground, plan: ExplorationPlan, expert: Expert, corpora: Mapping[str, str]) -> None:
        self.ground, self.plan, self.expert, self.corpora = ground, plan, expert, corpora
        every = {Split(name): ground.queries[Split(name)] for name in plan.splits}
        self.every = every
        self.queries = {q.id: q for mine in every.values() for q in mine if (q.answer or "").strip()}
        if not self.queries:
            raise ValueError(f"no question of {', '.join(plan.splits)} has a gold answer, so no search can be judged")
        self.replies = {
            name: Replies(Path(plan.folder) / "replies" / name, expert.fingerprint(), "expert", "exploration")
            for name in ("explore", "judge")
        }
        self.known = {name: len(mine) for name, mine in self.replies.items()}
        self.explored = self._explore()
        self.judged = self._judge()
        self.lessons: dict[Split, list[Lesson]] = {
            split: [lesson(q, self.judged[q.id], list(corpora), plan, ground.seed) for q in mine if q.id in self.queries]
            for split, mine in every.items()
        }

    @property
    def asked(self) -> int:
        """Tasks that the expert was given."""
        return sum(mine.asked for mine in self.replies.values())

    def statistics(self) -> dict[str, Any]:
        """Of the replies, of the judge, and of each split."""
        names, count = list(self.corpora), self.plan.queries_per_corpus
        splits = {
            str(split): counted(self.every[split], self.explored, self.judged, mine, names, count)
            for split, mine in self.lessons.items()
        }
        every = [one for mine in self.judged.values() for one in mine]
        return {
            "replies": {
                name: {"known_before": self.known[name], "asked_now": mine.asked} for name, mine in self.replies.items()
            },
            "agreement": judge_agreement(self.queries, every),
            "splits": splits,
        }

    def _explore(self) -> dict[str, Explored]:
        plan = self.plan
        asking = Asking(
            self.expert,
            self.replies["explore"],
            self.corpora,
            plan.queries_per_corpus,
            plan.most_attempts,
            plan.batch_size,
            self.ground.open_image,
        )
        explored = asking.explore(list(self.queries.values()))
        self.replies["explore"].pack()
        if incomplete := sum(len(one.written.wordings) < len(self.corpora) for one in explored.values()):
            logger.warning(
                "the expert never wrote all tags for %d of %d questions, asked %d times: a corpus whose tag is missing counts "
                "as one that was not asked",
                *(incomplete, len(explored), 1 + plan.most_attempts),
            )
        return explored

    def _judge(self) -> dict[str, list[Judged]]:
        searches = [
            (name, corpus, words)
            for name, one in self.explored.items()
            for corpus, mine in one.written.wordings.items()
            for words in mine
        ]
        found = find(self.ground.source, self.queries, searches, self.plan.top)
        found = {search: found[search] for search in searches}  # by question, so that a batch opens few images
        replies, ground = self.replies["judge"], self.ground
        verdicts = judge(self.expert, replies, self.queries, found, self.plan.batch_size, ground.open_image)
        replies.pack()
        judged: dict[str, list[Judged]] = defaultdict(list)
        for one in verdicts:
            judged[one.query_id].append(one)
        return {name: judged[name] for name in self.queries}


def _is_made(plan: ExplorationPlan, identity: Mapping[str, Any]) -> bool:
    """Whether all of it is there; ValueError where what is there is of something else."""
    there = []
    if searches_are_there(plan.targets):
        there.append((plan.targets, read_searches(plan.targets).identity))
    if is_there(plan.preferences):
        there.append((plan.preferences, read_preferences(plan.preferences).identity))
    for folder, told in there:
        if wrong := sorted(name for name in {*told, *identity} if told.get(name) != identity.get(name)):
            raise ValueError(
                f"{folder} was made of another {', '.join(wrong)}. Give another folder (--data.init_args.exploration.folder), "
                f"or delete {plan.targets} and {plan.preferences}: the expert's replies stay, and only what is new is asked. "
                "Nothing was changed"
            )
    return len(there) == 2 and (Path(plan.folder) / STATISTICS).is_file()
