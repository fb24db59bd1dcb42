"""What a query generator learns from, and what it or a rewriter wrote for each question, put on the questions."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from medrag_lightning.data.cached_rewriter import cached
from medrag_lightning.interfaces import Rewriter, RewriteTask
from medrag_lightning.records import Query, Split
from medrag_lightning.search_files import SearchRow, SearchTable, read_searches, searches_are_there

logger = logging.getLogger(__name__)


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class SearchPlan:
    """Where searches lie: those to learn from, those to search with, those that are being written.

    Args:
        targets: folder of the searches that stage query_generator learns from, several of a question perhaps: what the verb
            `explore` selected, for training and validation questions.
        table: folder of the searches that every question is searched with, in place of the question: what `predict` of stage
            query_generator wrote. Null: every corpus is asked with the question.
        written: folder that `predict` of stage query_generator writes to.
        rewriter: what makes a question of a dialogue (`Query.history`) stand alone, such as
            `medrag_lightning.data.rules_rewriter.RulesRewriter`; what it writes is searched with in place of the question, that
            the reader still gets, and is kept in ``runs/rewritten`` (`data.cached_rewriter.CachedRewriter` has settings for
            that, and for its time). Questions without a history are never rewritten. Null: all are searched with as they are.
        decoded: so many validation questions, drawn, that the generator writes whole searches for in a fit; all in `validate`.
    """

    targets: str | None = None
    table: str | None = None
    written: str = "runs/searches"
    decoded: int = 100
    rewriter: Rewriter | None = None

    def __post_init__(self) -> None:
        if self.decoded < 1:
            raise ValueError(f"searches.decoded must be at least 1, got {self.decoded}")


def searched_with(
    queries: Mapping[Split, list[Query]], plan: SearchPlan | None, asks: bool = True
) -> dict[Split, list[Query]]:
    """The questions with the searches of `plan.table` and what `plan.rewriter` wrote on them; as they are without either.

    Only one process (`asks`) asks the rewriter; the others take what it kept, so that all search with the same words. A row
    whose text could not be read leaves its question without searches, so that every corpus is asked with the question.

    Raises:
        ValueError: the table lacks a question; the message says how many, and what to do.
    """
    if plan is not None and plan.rewriter is not None:
        queries = _rewritten(queries, plan.rewriter, asks)
    if plan is None or plan.table is None:
        return dict(queries)
    table = read_searches(plan.table)
    rows = table.by_query()
    lacking = {split: [query.id for query in mine if query.id not in rows] for split, mine in queries.items()}
    if missing := [name for names in lacking.values() for name in names]:
        told = ", ".join(f"{len(names)} {split}" for split, names in lacking.items() if names)
        count = sum(map(len, queries.values()))
        raise ValueError(
            f"data.searches.table {plan.table} has no searches for {len(missing)} of {count} questions ({told}), the first "
            f"{missing[0]!r}: write them with the tables, train_part and limits of this run: python -m medrag_lightning "
            "predict -c DATA -c stages/query_generator --ckpt_path GENERATOR.ckpt --data.init_args.searches.written FOLDER"
        )
    found = {split: [replace(query, searches=rows[query.id].searches) for query in mine] for split, mine in queries.items()}
    _tell(table, [rows[query.id] for mine in queries.values() for query in mine])
    return found


def learned_from(queries: Mapping[Split, list[Query]], plan: SearchPlan, split: Split) -> list[Query]:
    """The questions of a split that have targets, once for each target, with it as `Query.searches`; in table order.

    Raises:
        ValueError: no targets are named, or none is of this split's questions.
    """
    if plan.targets is None:
        raise ValueError(
            "stage query_generator learns from searches, and data.searches.targets names none: make them with the verb explore "
            "and give --data.init_args.searches.targets FOLDER/targets"
        )
    known = {query.id: query for query in queries[split]}
    rows = [row for row in read_searches(plan.targets).rows if row.query_id in known]
    readable = [replace(known[row.query_id], searches=row.searches) for row in rows if row.searches is not None]
    if not readable:
        raise ValueError(
            f"data.searches.targets {plan.targets} holds no searches for any of {len(known)} {split} questions: make them with "
            f"the same tables, and with {str(split)!r} among the splits of the exploration"
        )
    count = len({query.id for query in readable})
    logger.info("%s: %d searches to learn from, of %d of %d questions", split, len(readable), count, len(known))
    return readable


def target_words(plan: SearchPlan | None) -> list[str]:
    """Every wording to learn, for a tokenizer that is trained on what a reader will say; none where there are no targets."""
    if plan is None or plan.targets is None or not searches_are_there(plan.targets):
        return []  # only training needs them, and says so (`learned_from`)
    return [words for row in read_searches(plan.targets).rows for _, words in row.searches or ()]


def _rewritten(queries: Mapping[Split, list[Query]], rewriter: Rewriter, asks: bool) -> dict[Split, list[Query]]:
    """The questions; those with a history with what the rewriter, or its cache, has for them, as far as it has something."""
    keeper = cached(rewriter)
    asked = [query for mine in queries.values() for query in mine if query.history]
    tasks = [RewriteTask(query.question, query.history) for query in asked]
    made = keeper.rewrite(tasks) if asks else keeper.known(tasks)
    if asked and asks:
        logger.info("%d questions have a history: %s", len(asked), keeper.counts)
    text_of = {query.id: text for query, text in zip(asked, made, strict=True)}
    return {split: [replace(query, rewritten=text_of.get(query.id)) for query in mine] for split, mine in queries.items()}


def _tell(table: SearchTable, rows: Sequence[SearchRow]) -> None:
    asked = Counter(corpus for row in rows for corpus, words in row.searches or () if words.strip())
    unread = sum(row.searches is None for row in rows)
    told = ", ".join(f"{corpus} {count}" for corpus, count in sorted(asked.items())) or "none"
    logger.info(
        "%s: searches of %d questions; questions that ask a corpus: %s%s",
        table.folder, len(rows), told, f"; {unread} could not be read: every corpus gets the question" if unread else "",
    )  # fmt: skip
