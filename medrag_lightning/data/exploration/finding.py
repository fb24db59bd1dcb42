"""What each search finds in its corpus, through the data module's own source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from medrag_lightning.data.audit.progress import telling
from medrag_lightning.data.exploration.plan import DESCRIPTIONS
from medrag_lightning.interfaces import CandidateSource
from medrag_lightning.records import Document, Query, shares_identity

AT_ONCE = 256

Search = tuple[str, str, str]
"""(id of the question, corpus, words)."""


def find(
    source: CandidateSource, queries: Mapping[str, Query], searches: Sequence[Search], top: int
) -> dict[Search, tuple[Document, ...]]:
    """The first `top` documents of each search, best first; equal searches are made once.

    Raises:
        ValueError: nothing in `source` asks a corpus by the name of a search, or it gives what the leak rule forbids.
    """
    by_corpus: dict[str, list[Search]] = defaultdict(list)
    for search in dict.fromkeys(searches):
        by_corpus[search[1]].append(search)
    found: dict[Search, tuple[Document, ...]] = {}
    total = sum(map(len, by_corpus.values()))
    with telling("searches") as tell:
        for corpus, mine in by_corpus.items():
            part = searcher(source, corpus)
            for start in range(0, len(mine), AT_ONCE):
                tell(len(found), total)
                batch = mine[start : start + AT_ONCE]
                asked = [replace(queries[name], searches=((corpus, words),)) for name, _, words in batch]
                for search, query, one in zip(batch, asked, part.retrieve(asked), strict=True):
                    documents = tuple(candidate.document for candidate in one.candidates)
                    _check(query, documents)
                    found[search] = documents[:top]
        tell(total, total)
    return found


def described(source: CandidateSource, corpora: Mapping[str, str] | None) -> dict[str, str]:
    """What each corpus holds: `corpora`, or for null all that `source` asks by name.

    Raises:
        ValueError: `source` asks one of them not by name, or, for null, one is not of the five known ones.
    """
    named = list(dict.fromkeys(_named(source)))
    told = ", ".join(named) or "none"
    if corpora is None:
        if not named:
            raise ValueError(
                "exploration: data.source asks no corpus by name, so nothing can be searched with an expert's words: set "
                "`corpus` of its text searches, such as retrieval.lexical.LexicalSearch with corpus: wiki"
            )
        if unknown := [name for name in named if name not in DESCRIPTIONS]:
            raise ValueError(
                f"exploration.corpora: say what corpus {unknown[0]!r} holds, so that an expert can write for it; data.source "
                f"asks {told}"
            )
        return {name: DESCRIPTIONS[name] for name in named}
    if unknown := [name for name in corpora if name not in named]:
        raise ValueError(f"exploration.corpora: data.source asks no corpus {unknown[0]!r} by name; it asks {told}")
    return dict(corpora)


def searcher(source: CandidateSource, corpus: str) -> CandidateSource:
    """The smallest part of `source` that holds all that asks a corpus by its name; ValueError where nothing does."""
    found = _searcher(source, corpus)
    if found is None:
        raise ValueError(f"data.source asks no corpus {corpus!r} by name: set `corpus` of what searches it")
    return found


def _searcher(source: CandidateSource, corpus: str) -> CandidateSource | None:
    if getattr(source, "corpus", "") == corpus:
        return source
    inside = dict(_inside(source))
    mine = {name: found for name, part in inside.items() if (found := _searcher(part, corpus)) is not None}
    if corpus in mine:  # the part of a `CorpusSearch`, whatever it is made of
        return inside[corpus]
    return source if len(mine) > 1 else next(iter(mine.values()), None)


def _named(source: CandidateSource) -> Iterator[str]:
    if mine := getattr(source, "corpus", ""):
        yield mine
    for _, part in _inside(source):
        yield from _named(part)


def _inside(source: CandidateSource) -> Iterator[tuple[str, CandidateSource]]:
    """The sources that a source is made of, by name."""
    for name, value in getattr(source, "__dict__", {}).items():
        if name.startswith("_"):
            continue
        for inner, one in value.items() if isinstance(value, Mapping) else [(name, value)]:
            if isinstance(one, CandidateSource) and not isinstance(one, type):
                yield str(inner), one


def _check(query: Query, documents: Sequence[Document]) -> None:
    for document in documents:
        if reason := shares_identity(query, document):
            raise ValueError(
                f"document {document.id!r} shares its {reason} with query {query.id!r}: the source breaks the rule"
            )
