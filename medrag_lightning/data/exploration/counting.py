"""How an exploration came about, in numbers: plain JSON."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medrag_lightning.data.exploration.asking import Explored
from medrag_lightning.data.exploration.lessons import Lesson
from medrag_lightning.data.exploration.verdicts import Judged
from medrag_lightning.metrics import agreement
from medrag_lightning.records import Query

UNANSWERED = "no gold answer"
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_NUMBER = re.compile(r"\d+")


def counted(
    queries: Sequence[Query],
    explored: Mapping[str, Explored],
    judged: Mapping[str, Sequence[Judged]],
    lessons: Sequence[Lesson],
    corpora: Sequence[str],
    count: int,
) -> dict[str, Any]:
    """Of one split.

    Args:
        queries: all of its questions; those without a gold answer cannot be judged and are not explored.
        explored: what was written, by question.
        judged: the searches of each question.
        lessons: of the explored questions.
        corpora: their names.
        count: queries wanted for each corpus.
    """
    mine = [explored[one.query.id] for one in lessons]
    searches = [one for lesson in lessons for one in judged[lesson.query.id]]
    unanswered = {UNANSWERED: len(queries) - len(lessons)}
    return {
        "questions": {"all": len(queries), "explored": len(lessons)},
        "written": _written(mine, corpora, count),
        "corpora": {name: _of_corpus(lessons, [one for one in searches if one.corpus == name], name) for name in corpora},
        "targets": {
            "questions": sum(bool(one.rows) for one in lessons),
            "texts": sum(len(one.rows) for one in lessons),
            "dropped": unanswered | _dropped("no positive" for one in lessons if not one.told.has_good),
        },
        "pairs": {
            "questions": sum(bool(one.pairs) for one in lessons),
            "pairs": sum(len(one.pairs) for one in lessons),
            "dropped": unanswered | _dropped(one.told.lacks for one in lessons if one.told.lacks is not None),
        },
    }


def judge_agreement(queries: Mapping[str, Query], judged: Iterable[Judged]) -> dict[str, Any] | None:
    """How well verdicts fit the documents that a world knows to be relevant (`Query.relevant_ids`); None where none is known.

    A search counts as right to say yes to if it found one of them. Searches of one patient are drawn together.
    """
    known = [one for one in judged if one.reply is not None and queries[one.query_id].relevant_ids]
    if not known:
        return None
    truth = [bool({d.id for d in one.documents} & set(queries[one.query_id].relevant_ids)) for one in known]
    clusters = [queries[one.query_id].patient_id or one.query_id for one in known]
    told = agreement(truth, [one.is_good for one in known], clusters)
    return {"searches": len(known), "truly_supported": sum(truth), **told.as_json()}


def _written(explored: Sequence[Explored], corpora: Sequence[str], count: int) -> dict[str, Any]:
    faults = Counter(_kind(fault) for one in explored for fault in one.all_faults)
    return {
        "replies": sum(one.attempts for one in explored),
        "asked_again": sum(one.attempts - 1 for one in explored),
        "malformed_replies": sum(one.malformed for one in explored),
        "never_complete": sum(len(one.written.wordings) < len(corpora) for one in explored),
        "too_few_queries": {name: sum(len(one.written.wordings.get(name, ())) < count for one in explored) for name in corpora},
        "faults": dict(sorted(faults.items())),
    }


def _of_corpus(lessons: Sequence[Lesson], searches: Sequence[Judged], name: str) -> dict[str, int]:
    asked = [one for one in searches if one.reply is not None]
    return {
        "searches": len(searches),
        "found_nothing": len(searches) - len(asked),
        "yes": sum(one.verdict is True for one in asked),
        "no": sum(one.verdict is False for one in asked),
        "unreadable": sum(one.verdict is None for one in asked),
        "questions_with_positive": sum(bool(one.told.good[name]) for one in lessons),
        "questions_with_negative": sum(bool(one.told.bad[name]) for one in lessons),
    }


def _dropped(reasons: Iterable[str | None]) -> dict[str, int]:
    found = Counter(reasons)
    return {reason: found[reason] for reason in ("no positive", "no negative") if reason in found}


def _kind(fault: str) -> str:
    """A fault without the words and numbers of the one text."""
    return _NUMBER.sub("N", _QUOTED.sub("...", fault))
