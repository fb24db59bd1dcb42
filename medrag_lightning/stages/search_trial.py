"""Searches that were written, tried out: what the source finds with them, beside what it finds with the question itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from medrag_lightning.metrics import SearchOutcome, hit_at
from medrag_lightning.records import REPORTS, Document, Query, Retrieved, Searches, WrittenSearches


class FindingItems(Protocol):
    """A data set of questions that can search."""

    def found(self, queries: Sequence[Query]) -> list[Retrieved]:
        """What the source finds with the searches of `queries`."""
        ...

    def documents(self) -> Sequence[Document]:
        """The evidence corpus."""
        ...


def outcomes_of(
    written: Sequence[tuple[Query, WrittenSearches, float]],
    items: FindingItems,
    corpora: Sequence[str],
    k: int,
    beside_raw: bool,
) -> list[SearchOutcome]:
    """What became of each question.

    Args:
        written: the question, with its target as `Query.searches` or None, what was written for it, and in how many seconds.
        items: searches.
        corpora: that searches are written for.
        k: a gold document counts as found among the first so many of its corpus.
        beside_raw: whether to search with the questions themselves, too.
    """
    reports = {document.id for document in items.documents() if document.corpus == REPORTS and REPORTS not in corpora}
    gold = [frozenset(query.relevant_ids) - reports for query, _, _ in written]
    known = [place for place, ids in enumerate(gold) if ids or beside_raw]
    told = dict(zip(known, items.found([replace(written[p][0], searches=written[p][1].first()) for p in known]), strict=True))
    raw: dict[int, Retrieved] = {}
    if beside_raw:
        raw = dict(zip(known, items.found([replace(written[place][0], searches=None) for place in known]), strict=True))
    return [
        _outcome(query, said, seconds, corpora, gold[place], told.get(place), raw.get(place), k)
        for place, (query, said, seconds) in enumerate(written)
    ]


def _outcome(
    query: Query,
    said: WrittenSearches,
    seconds: float,
    corpora: Sequence[str],
    gold: frozenset[str],
    found: Retrieved | None,
    raw: Retrieved | None,
    k: int,
) -> SearchOutcome:
    searches = said.first()
    asked = tuple(name for name, _ in searches or ())
    target = _asking(query.searches)
    return SearchOutcome(
        query_id=query.id,
        cluster=query.patient_id or query.study_id or str(query.image or query.id),
        need=query.need,
        asked=asked,
        left_out=() if searches is None else tuple(name for name in corpora if name not in asked),
        unread=searches is None,
        faults=said.faults,
        seconds=seconds,
        same_corpora=None if target is None else set(asked) == set(target),
        same_words=None if target is None else not said.faults and dict(searches or ()) == target,
        hit=hit_at(by_corpus(found), gold, k) if gold and found is not None else None,
        raw_hit=hit_at(by_corpus(raw), gold, k) if gold and raw is not None else None,
        changed=None if found is None or raw is None else [c.id for c in found.candidates] != [c.id for c in raw.candidates],
    )


def _asking(searches: Searches | None) -> dict[str, str] | None:
    """The corpora that are asked, with their words."""
    return None if searches is None else {name: words for name, words in searches if words.strip()}


def by_corpus(found: Retrieved) -> dict[str, list[str]]:
    """Ids of the candidates of each corpus, best first."""
    ids: dict[str, list[str]] = {}
    for candidate in found.candidates:
        ids.setdefault(candidate.corpus, []).append(candidate.id)
    return ids
