"""What the searches that a query generator wrote came to: texts read, corpora left out, gold documents found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medrag_lightning.metrics.bootstrap import Bootstrap, Metric, weighted_mean

ALL = "all"


@dataclass(frozen=True, slots=True)
class SearchOutcome:
    """What became of one question.

    Attributes:
        query_id: the question.
        cluster: its patient, study or image, whatever is known first: what a bootstrap draws.
        need: what evidence it needs, where a generated world knows.
        asked: the corpora that were asked.
        left_out: of the corpora, those that were not.
        unread: whether not one tag could be read, so that every corpus gets the question itself.
        faults: what was wrong with the text.
        seconds: that writing took, its share of the batch.
        same_corpora, same_words: whether the corpora that were asked, and the words, are those of the target; None without one.
        hit: whether a gold document was found with the searches; None where none is known.
        raw_hit: the same with the question itself; None where that was not tried, too.
        changed: whether the searches found something else than the question itself; None where that was not tried.
    """

    query_id: str
    cluster: str
    need: str | None
    asked: tuple[str, ...]
    left_out: tuple[str, ...]
    unread: bool
    faults: tuple[str, ...]
    seconds: float
    same_corpora: bool | None = None
    same_words: bool | None = None
    hit: bool | None = None
    raw_hit: bool | None = None
    changed: bool | None = None


@dataclass(frozen=True, slots=True)
class SearchResultRow:
    """The numbers of all questions, or of those of one need; `metrics` by name."""

    need: str
    questions: int
    metrics: dict[str, Metric]


@dataclass(frozen=True, slots=True)
class SearchResults:
    """A row for all questions, then one for each need; `k` of hit@k; `asked`: share of questions that ask each corpus."""

    k: int
    rows: tuple[SearchResultRow, ...]
    asked: dict[str, float]
    milliseconds: float
    notes: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "k": self.k,
            "rows": [
                {"need": row.need, "questions": row.questions, **{name: m.as_json() for name, m in row.metrics.items()}}
                for row in self.rows
            ],
            "asked": self.asked,
            "milliseconds_a_question": self.milliseconds,
            "notes": list(self.notes),
        }


def search_numbers(outcomes: Sequence[SearchOutcome], k: int) -> dict[str, float]:
    """Plain means by name, to log; what is not known is left out.

    ``read_whole``: texts without a fault. ``unread``: texts of which nothing could be read. ``empty_tags``: of all corpora of
    all questions, those not asked. ``same_corpora``, ``same_searches``: as the target. ``hit_at_K`` and ``raw_hit_at_K``:
    gold found.
    """
    if not outcomes:
        return {}
    found: dict[str, float] = {name: float(np.mean(values)) for name, values in _columns(outcomes).items() if values}
    found |= {f"{name}_at_{k}": found.pop(name) for name in ("hit", "raw_hit") if name in found}
    found["ms_a_question"] = 1000 * float(np.mean([outcome.seconds for outcome in outcomes]))
    return found


def search_results(outcomes: Sequence[SearchOutcome], corpora: Sequence[str], k: int, bootstrap: Bootstrap) -> SearchResults:
    """The table of a test, with intervals over clusters of questions."""
    needs = sorted({outcome.need for outcome in outcomes if outcome.need is not None})
    groups = [(ALL, list(outcomes)), *((need, [one for one in outcomes if one.need == need]) for need in needs)]
    rows = tuple(SearchResultRow(name, len(mine), _metrics(mine, bootstrap)) for name, mine in groups)
    asked = {name: float(np.mean([name in one.asked for one in outcomes])) if outcomes else 0.0 for name in corpora}
    spent = 1000 * float(np.mean([one.seconds for one in outcomes])) if outcomes else 0.0
    return SearchResults(k, rows, asked, spent, tuple(_notes(outcomes)))


def _metrics(outcomes: Sequence[SearchOutcome], bootstrap: Bootstrap) -> dict[str, Metric]:
    def mean(values: Sequence[float], clusters: Sequence[str], why: str) -> Metric:
        return bootstrap.metric(weighted_mean(values), clusters) if values else Metric.missing(why)

    every = [one.cluster for one in outcomes]
    found = {name: mean(_columns(outcomes)[name], every, "no questions") for name in ("read_whole", "empty_tags")}
    known = [one for one in outcomes if one.hit is not None]
    clusters = [one.cluster for one in known]
    found["hit"] = mean([float(bool(one.hit)) for one in known], clusters, "no gold document is known")
    both = [one for one in known if one.raw_hit is not None]
    raw, mine = [float(bool(one.raw_hit)) for one in both], [float(bool(one.hit)) for one in both]
    clusters = [one.cluster for one in both]
    found["raw_hit"] = mean(raw, clusters, "no gold document is known")
    found["gain"] = bootstrap.paired_difference(mine, raw, clusters) if both else Metric.missing("no gold document is known")
    return found


def _columns(outcomes: Sequence[SearchOutcome]) -> dict[str, list[float]]:
    corpora = [len(one.asked) + len(one.left_out) for one in outcomes]
    told: dict[str, list[Any]] = {
        "read_whole": [not one.faults for one in outcomes],
        "unread": [one.unread for one in outcomes],
        "empty_tags": [len(one.left_out) / max(1, count) for one, count in zip(outcomes, corpora, strict=True)],
        "same_corpora": [one.same_corpora for one in outcomes if one.same_corpora is not None],
        "same_searches": [one.same_words for one in outcomes if one.same_words is not None],
        "hit": [one.hit for one in outcomes if one.hit is not None],
        "raw_hit": [one.raw_hit for one in outcomes if one.raw_hit is not None],
    }
    return {name: [float(value) for value in values] for name, values in told.items()}


def _notes(outcomes: Sequence[SearchOutcome]) -> list[str]:
    notes = []
    known = sum(one.hit is not None for one in outcomes)
    if not known:
        notes.append("no gold document is known for any question (only generated worlds know them), so hits cannot be told")
    elif known < len(outcomes):
        notes.append(f"hits are of {known} of {len(outcomes)} questions: the others need no document of these corpora")
    if faulty := sum(bool(one.faults) for one in outcomes):
        notes.append(f"{faulty} of {len(outcomes)} texts had a fault; what could be read of them was used")
    tried = [one for one in outcomes if one.changed is not None]
    if tried and not any(one.changed for one in tried):
        notes.append(
            "the searches found exactly what the questions found: does the source read them? Its parts need `corpus`, the name "
            "of their corpus (CorpusSearch)"
        )
    return notes
