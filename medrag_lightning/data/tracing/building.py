"""From questions to traces to learn from: retrieve, rearrange, answer, rethink, answer for good (MIRA, RTRA).

traces.arrow, manifest.json      the table (`trace_files`)
replies/STEP                     the teacher's own words, as they came
samples.jsonl, samples.html      some questions to look at
statistics.json                  how it came about; written last
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medrag_lightning.artifacts import fingerprint, read_json, write_json
from medrag_lightning.data.replies import Replies
from medrag_lightning.data.searching import Searching
from medrag_lightning.data.tracing.counting import counted, counted_calls
from medrag_lightning.data.tracing.draft import Draft
from medrag_lightning.data.tracing.plan import TracePlan
from medrag_lightning.data.tracing.samples import write_samples
from medrag_lightning.data.tracing.writing import STEPS, Writing
from medrag_lightning.interfaces import CandidateSource, Teacher
from medrag_lightning.records import Query, Split
from medrag_lightning.score_files import documents_fingerprint, query_fingerprint
from medrag_lightning.trace_files import MANIFEST, ROWS_FILE, differing, read_traces, traces_are_there, write_traces

logger = logging.getLogger(__name__)
STATISTICS = "statistics.json"


@dataclass(frozen=True, slots=True)
class Ground:
    """What traces are about: the questions of each split, their source, what it searches, and the seed of the samples."""

    queries: Mapping[Split, Sequence[Query]]
    source: CandidateSource
    searching: Searching
    seed: int


@dataclass(frozen=True, slots=True)
class Traced:
    """What lies in `folder` by now. `asked`: tasks that the teacher was given for it this time; 0 where all was there."""

    folder: Path
    statistics: Mapping[str, Any]
    asked: int


def trace_or_read(ground: Ground, plan: TracePlan) -> Traced:
    """Traces in `plan.folder`; they are written where they are not there yet.

    Every reply of the teacher is kept at once, so that an interrupted run goes on; calls that failed are made again.

    Raises:
        ValueError: there is no teacher, no question, or the folder holds traces of something else, which stay.
    """
    if plan.teacher is None:
        raise ValueError("exploration.traces.teacher is not set: name who writes, such as models.vlm_teacher.VlmTeacher")
    queries = [query for name in plan.splits for query in ground.queries[Split(name)]]
    if not queries:
        raise ValueError(f"there are no questions in {', '.join(plan.splits)}, so there is nothing to trace")
    searching = ground.searching
    ground.source.load(searching.documents, searching.open_image, searching.folder)
    identity = identity_of(ground, plan, plan.teacher, queries)
    folder = Path(plan.folder)
    if _is_made(folder, identity):
        return Traced(folder, read_json(folder / STATISTICS), 0)
    replies: dict[str, Replies] = {
        step: Replies(folder / "replies" / step, plan.teacher.fingerprint(), "teacher", "exploration.traces") for step in STEPS
    }
    known: dict[str, int] = {step: len(mine) for step, mine in replies.items()}
    found = searching.find(ground.source, queries)
    drafts = [Draft(query, tuple(one.document for one in found[query.id].candidates)) for query in queries]
    writing = Writing(plan.teacher, replies, plan.tells_gold, plan.most_attempts, plan.batch_size, searching.open_image)
    writing.write(drafts)
    told = _statistics(writing, known, drafts, plan)
    write_traces(folder, [draft.row(plan.tells_gold) for draft in drafts], identity)
    write_samples(folder, drafts, plan.tells_gold, plan.samples, ground.seed)
    write_json(folder / STATISTICS, told)
    if all(draft.reason for draft in drafts):
        logger.warning("no question has a trace: there is nothing to learn from; look at samples.html")
    return Traced(folder, told, sum(mine.asked for mine in replies.values()))


def identity_of(ground: Ground, plan: TracePlan, teacher: Teacher, queries: Sequence[Query]) -> dict[str, Any]:
    """What traces depend on, by name, as plain JSON."""
    return {
        "made_by": "tracing",
        "teacher": teacher.fingerprint(),
        "gold": plan.gold,
        "settings": {"splits": list(plan.splits), "most_attempts": plan.most_attempts},
        "questions": fingerprint([[query_fingerprint(query), query.searches] for query in queries]),
        "corpus": documents_fingerprint(ground.searching.documents),
        "source": ground.source.fingerprint(),
    }


def _statistics(writing: Writing, known: Mapping[str, int], drafts: Sequence[Draft], plan: TracePlan) -> dict[str, Any]:
    """Of each step, and of each split."""
    queries = {draft.query.id: draft.query for draft in drafts}
    rows = [draft.row(plan.tells_gold) for draft in drafts]
    steps = {
        step: {"known_before": known[step], "asked_now": writing.replies[step].asked, **counted_calls(calls)}
        for step, calls in writing.calls.items()
    }
    splits = {name: counted(queries, [row for row in rows if row.split == Split(name)]) for name in plan.splits}
    return {"gold": plan.gold, "steps": steps, "splits": splits}


def _is_made(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether all of it is there; ValueError where what is there is of something else."""
    if not traces_are_there(folder):
        return False
    if wrong := differing(read_traces(folder).identity, identity):
        raise ValueError(
            f"{folder} holds traces of another {', '.join(wrong)}. Give another folder "
            f"(--data.init_args.exploration.traces.folder), or delete {ROWS_FILE} and {MANIFEST} there: replies stay, and only "
            "what is new is asked. Nothing was changed"
        )
    return (folder / STATISTICS).is_file()
