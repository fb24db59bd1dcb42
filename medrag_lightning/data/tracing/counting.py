"""How traces came about, and what they keep and answer, in numbers: plain JSON."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from medrag_lightning.data.tracing.writing import Calls
from medrag_lightning.metrics import Bootstrap, exact_match, label_of, parse_closed, weighted_mean
from medrag_lightning.records import Query
from medrag_lightning.trace_files import TraceRow

_NUMBER = re.compile(r"\d+")
KINDS = ("right", "misleading", "other")


def counted_calls(calls: Calls) -> dict[str, Any]:
    """Of one step; faults without the numbers of the one reply."""
    faults: Counter[str] = Counter()
    for fault, count in calls.faults.items():
        faults[_NUMBER.sub("N", fault)] += count
    return {
        "replies": calls.replies,
        "asked_again": calls.asked_again,
        "failed": calls.failed,
        "unusable": calls.unusable,
        "excluded": calls.excluded,
        "faults": dict(sorted(faults.items())),
    }


def counted(queries: Mapping[str, Query], rows: Sequence[TraceRow]) -> dict[str, Any]:
    """Of one split: why questions have no trace, what the others keep, how right they are.

    Args:
        queries: by id, with what is known of them: it is counted here, and stands in no trace.
        rows: of the split.
    """
    whole = [row for row in rows if row.trace is not None]
    return {
        "questions": len(rows),
        "traces": len(whole),
        "excluded": dict(sorted(Counter(row.reason for row in rows if row.trace is None).items())),
        "kept": _kept_by_type(queries, whole),
        "answers": _answers(queries, whole),
        "keep_rates": _keep_rates(queries, whole),
    }


def is_right(query: Query, text: str) -> bool:
    """Whether a text gives the gold answer: the choice that it states, or word for word but for case, signs and articles."""
    assert query.answer is not None
    if query.choices:
        said = parse_closed(text, query.choices)
        return said is not None and label_of(said) == label_of(query.answer)
    return bool(exact_match([query.answer], [text])[0])


def _kept_by_type(queries: Mapping[str, Query], rows: Sequence[TraceRow]) -> dict[str, Any]:
    """How many pieces of evidence are kept, by what the question needs where a world knows that, else by its form (M07)."""
    by_type: dict[str, list[TraceRow]] = defaultdict(list)
    for row in rows:
        query = queries[row.query_id]
        by_type[query.need or str(query.answer_type)].append(row)
    return {name: _distribution(by_type[name]) for name in sorted(by_type)}


def _distribution(rows: Sequence[TraceRow]) -> dict[str, Any]:
    kept = [len(row.trace.kept) for row in rows if row.trace is not None]
    return {
        "traces": len(rows),
        "mean_retrieved": sum(len(row.evidence_ids) for row in rows) / len(rows),
        "mean_kept": sum(kept) / len(rows),
        "traces_by_kept": {str(count): times for count, times in sorted(Counter(kept).items())},
    }


def _answers(queries: Mapping[str, Query], rows: Sequence[TraceRow]) -> dict[str, Any] | None:
    """How often the first and the last answer are the gold one, and what rethinking changed; None where no gold is known."""
    known = [(queries[row.query_id], row.trace) for row in rows if row.trace and (queries[row.query_id].answer or "").strip()]
    if not known:
        return None
    pairs = [(is_right(query, trace.initial), is_right(query, trace.final)) for query, trace in known]
    clusters = [_cluster(query) for query, _ in known]
    first, last = ([float(pair[side]) for pair in pairs] for side in (0, 1))
    return {
        "questions": len(known),
        "initial": Bootstrap().metric(weighted_mean(first), clusters).as_json(),
        "final": Bootstrap().metric(weighted_mean(last), clusters).as_json(),
        "difference": Bootstrap().paired_difference(last, first, clusters).as_json(),
        "right_to_wrong": pairs.count((True, False)),
        "wrong_to_right": pairs.count((False, True)),
    }


def _keep_rates(queries: Mapping[str, Query], rows: Sequence[TraceRow]) -> dict[str, Any] | None:
    """Which share is kept of evidence that a world knows to be right, misleading, or neither (M06); None where none does."""
    found: dict[str, list[tuple[bool, str]]] = {kind: [] for kind in KINDS}
    for row in rows:
        query = queries[row.query_id]
        if row.trace is None or not (query.relevant_ids or query.poison_ids):
            continue
        kept = {one.number for one in row.trace.kept}
        for number, name in enumerate(row.evidence_ids, 1):
            kind = "right" if name in query.relevant_ids else "misleading" if name in query.poison_ids else "other"
            found[kind].append((number in kept, _cluster(query)))
    if not any(found.values()):
        return None
    return {kind: _rate(mine) for kind, mine in found.items()}


def _rate(mine: Sequence[tuple[bool, str]]) -> dict[str, Any]:
    clusters = [cluster for _, cluster in mine]
    rate = Bootstrap().metric(weighted_mean([float(kept) for kept, _ in mine]), clusters)
    return {"retrieved": len(mine), "kept": sum(kept for kept, _ in mine), "rate": rate.as_json()}


def _cluster(query: Query) -> str:
    return query.patient_id or query.id
