"""What a re-ranker of texts is taught and measured with: questions, the right documents, and what a search found for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

CHUNK = 256
SHOWN = (1, 2, 10)
Right = Mapping[str, frozenset[str]]
"""The ids of the right documents of each question, by its id."""


def right_ids(data: Any) -> dict[str, frozenset[str]]:
    """The right documents of each question: those it names, their chunks, and all that say the same word for word."""
    named: dict[str, set[str]] = defaultdict(set)
    same: dict[str, set[str]] = defaultdict(set)
    text_of: dict[str, str] = {}
    for document in data.documents():
        named[document.id].add(document.id)
        whole, between, number = document.id.rpartition("/")
        if between and number.isdigit():  # a chunk of a longer text
            named[whole].add(document.id)
        same[document.text].add(document.id)
        text_of[document.id] = document.text
    found = {}
    for split in ("train", "val", "test"):
        for query in data.split_queries(split):
            mine = {one for name in query.relevant_ids for one in named.get(name, ())}
            found[query.id] = frozenset(twin for one in mine for twin in same[text_of[one]])
    return found


def asked_of(data: Any, split: str, right: Right) -> list[Any]:
    """The questions of a split whose right documents are known."""
    return [query for query in data.split_queries(split) if right[query.id]]


def _pools(pool: Any, queries: Sequence[Any], depth: int, what: str) -> Iterable[tuple[Any, list[Any]]]:
    """Each question with its first candidates that have a text; shows how long it takes."""
    from rich.console import Console
    from rich.progress import track

    starts = range(0, len(queries), CHUNK)
    for start in track(starts, what, console=Console(stderr=True), transient=True):
        part = queries[start : start + CHUNK]
        for query, one in zip(part, pool.retrieve(part), strict=True):
            texts = {candidate.id: candidate for candidate in one.candidates if candidate.document.text.strip()}
            yield query, list(texts.values())[:depth]


def fitted_to(pool: Any, taught: Sequence[Any], right: Right, depth: int, documents: Sequence[Any]) -> Any:
    """A `WordReranker` fitted to the pool's first `depth` candidates of each question."""
    from medrag_lightning.retrieval.word_reranker_fit import RerankExample, fit_word_reranker

    examples = []
    for query, found in _pools(pool, taught, depth, "training questions searched"):
        good = tuple(candidate.id in right[query.id] for candidate in found)
        examples.append(RerankExample(query.searched, tuple(candidate.document.text for candidate in found), good))
    texts = [document.text for document in documents if document.text.strip()]
    return fit_word_reranker(examples, texts, getattr(pool, "words", None))


def held_out(pool: Any, fitted: Any, queries: Sequence[Any], right: Right, depth: int) -> dict[str, Any]:
    """R@k and MRR of a split's questions in the pool's order and in the new one, with intervals, and the paired difference."""
    import numpy as np

    from medrag_lightning.metrics import Bootstrap, weighted_mean

    if not queries:
        return {"questions": 0}
    places = np.zeros((2, len(queries)))
    for at, (query, found) in enumerate(_pools(pool, queries, depth, "held-out questions searched")):
        score = fitted.relevance([(query.searched, c.document.text) for c in found]) if found else np.zeros(0)
        orders = range(len(found)), np.argsort(-score, kind="stable")
        for row, order in enumerate(orders):
            names = [found[int(k)].id for k in order]
            places[row, at] = next((n for n, name in enumerate(names, 1) if name in right[query.id]), np.inf)
    values = {f"R@{k}": (places <= k).astype(float) for k in SHOWN if k <= depth} | {"MRR": 1 / places}
    bootstrap, groups = Bootstrap(), [query.patient_id or query.id for query in queries]
    made: dict[str, Any] = {"questions": len(queries)}
    for name, (before, after) in values.items():
        three = {"pool": before, "reranked": after, "difference": after - before}
        made[name] = {key: bootstrap.metric(weighted_mean(value), groups).as_json() for key, value in three.items()}
    return made
