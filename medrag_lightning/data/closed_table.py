"""A table whose open questions are made closed, with every conversion stored beside what it was made of, and audited."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from medrag_lightning.artifacts import fingerprint, read_json, sha256_file, write_json, write_jsonl
from medrag_lightning.data.closing import Closer, Closing
from medrag_lightning.data.row_files import read_rows
from medrag_lightning.data.tables.answers import YES_NO
from medrag_lightning.interfaces import Table
from medrag_lightning.metrics import normalise_answer
from medrag_lightning.records import AnswerType, Document, Query, Split
from medrag_lightning.score_files import query_fingerprint

CONVERSIONS, AUDIT = "closed.jsonl", "audit.json"
TELLING = 1.5
"""A choice's length gives the answer away where it does so this many times as often as by chance."""
FEW = 20

logger = logging.getLogger(__name__)

SplitName = Literal["train", "val", "test"]
Converted = list[tuple[Query, Closing]]


class ClosedTable:
    """Another table, its open questions closed where `closer` can; the others stay open. Works as an entry of `data.tables`.

    ``closed.jsonl`` in `store` holds a line a question: original, converted, rule or reason. ``audit.json`` counts them and
    warns where choices give the answer away; it is written last. Later runs read the stored conversions, so a score table
    and the training that reads it ask the same questions. Both files hold questions and answers, and no patient ids.

    Args:
        table: where the questions come from; its documents are passed on unchanged.
        closer: makes the conversions; it learns from training questions alone.
        store: folder of the conversions, such as one beside the score table.
        splits: whose questions are closed. Test questions stay as they are by default, so that results compare with others'.
    """

    def __init__(self, table: Table, closer: Closer, store: str, splits: tuple[SplitName, ...] = ("train", "val")) -> None:
        if not splits:
            raise ValueError("ClosedTable.splits is empty: name the splits whose questions are closed, or use the table itself")
        self.table, self.closer, self.store, self.splits = table, closer, Path(store), {Split(name) for name in splits}
        self._queries: list[Query] | None = None

    def queries(self) -> list[Query]:
        """All questions, in the table's order."""
        if self._queries is None:
            originals = self.table.queries()
            opened = [q for q in originals if q.answer_type is AnswerType.OPEN and q.split in self.splits]
            told = [[query_fingerprint(q), str(q.split)] for q in originals if q.split in self.splits or q.split is Split.TRAIN]
            made_of = fingerprint([self.closer.fingerprint(), sorted(self.splits), told])
            if not (self.store / AUDIT).is_file():
                self._convert(originals, opened, made_of)
            closed = self._stored(made_of)
            self._queries = [closed.get(query.id, query) for query in originals]
        return self._queries

    def documents(self) -> list[Document]:
        """The table's own."""
        return self.table.documents()

    def roots(self) -> list[Path]:
        """The table's own."""
        return self.table.roots()

    def _convert(self, originals: Sequence[Query], opened: Sequence[Query], made_of: str) -> None:
        training = [query for query in originals if query.split is Split.TRAIN]
        self.closer.learn(training)
        found = [(query, self.closer.close(query)) for query in opened]
        seen = {normalise_answer(query.answer) for query in training if query.answer is not None}
        write_jsonl(self.store / CONVERSIONS, (_row(query, closing) for query, closing in found))
        told = audit(found, seen)
        head = {"fingerprint": made_of, "closer": type(self.closer).__name__, "sha256": sha256_file(self.store / CONVERSIONS)}
        write_json(self.store / AUDIT, head | told)
        logger.info("%s: %d of %d open questions closed", self.store, told["closed"], told["open_questions"])
        for warning in told["warnings"]:
            logger.warning("%s: %s", self.store, warning)

    def _stored(self, made_of: str) -> dict[str, Query]:
        head, path = read_json(self.store / AUDIT), self.store / CONVERSIONS
        if head["fingerprint"] != made_of:
            raise ValueError(
                f"{self.store} holds conversions of other questions or by other rules. Give another `store`, or delete "
                "this one (scores of its questions are then of no use)"
            )
        if not path.is_file() or sha256_file(path) != head["sha256"]:
            raise ValueError(f"{path} is not the file that {AUDIT} names; delete {self.store} to convert anew")
        by_id = {query.id: query for query in self.table.queries()}
        closed: dict[str, Query] = {}
        for row in read_rows(path):
            told = row.values["converted"]
            if told is not None:
                closed[row.values["id"]] = replace(
                    by_id[row.values["id"]],
                    question=told["question"],
                    choices=tuple(told["choices"]),
                    answer=told["answer"],
                    answer_type=AnswerType.CLOSED,
                )
        return closed


def audit(found: Converted, training_answers: set[str]) -> dict[str, Any]:
    """What became of open questions: counts by rule and by reason, yes-no balance, and what gives answers away.

    Args:
        found: each open question with its conversion.
        training_answers: normalised; a gold answer outside them is the only choice that training never saw.
    """
    made = [(closing.rule, closing.query) for _, closing in found if closing.query is not None]
    binary = [query for _, query in made if query.choices == YES_NO]
    listed = [query for _, query in made if query.choices != YES_NO]
    unseen = [q for rule, q in made if rule.startswith("frequent") and normalise_answer(q.answer or "") not in training_answers]
    told: dict[str, Any] = {
        "open_questions": len(found),
        "closed": len(made),
        "by_rule": dict(sorted(Counter(rule for rule, _ in made).items())),
        "refused": dict(sorted(Counter(closing.reason for _, closing in found if closing.query is None).items())),
        "gold_among_choices": sum(query.gold_index >= 0 for _, query in made),
        "yes_no": {name: sum(query.answer == name for query in binary) for name in YES_NO},
        "gold_never_seen_in_training": len(unseen),
        "gold_is_longest": _share(listed, longest=True),
        "gold_is_shortest": _share(listed, longest=False),
    }
    return told | {"warnings": _warnings(told)}


def _warnings(told: dict[str, Any]) -> list[str]:
    warnings = []
    if told["gold_among_choices"] != told["closed"]:
        without = told["closed"] - told["gold_among_choices"]
        warnings.append(f"{without} questions do not have their gold answer among the choices")
    for name in ("longest", "shortest"):
        share = told[f"gold_is_{name}"]
        if share["questions"] >= FEW and share["share"] > TELLING * share["by_chance"]:
            rates = f"{share['share']:.0%} of questions, {share['by_chance']:.0%} by chance"
            warnings.append(f"length gives the answer away: the {name} choice is the right one in {rates}")
    yes, no = (told["yes_no"][name] for name in ("yes", "no"))
    if yes + no >= FEW and max(yes, no) > TELLING * min(yes, no):
        warnings.append(f"yes-no questions are out of balance: {yes} yes, {no} no")
    if told["gold_never_seen_in_training"]:
        unseen = told["gold_never_seen_in_training"]
        warnings.append(f"{unseen} questions have as gold answer the only choice that training never saw")
    return warnings


def _share(queries: Sequence[Query], longest: bool) -> dict[str, Any]:
    """How often the gold answer is the one longest (or shortest) choice in characters, and how often a random one would be."""
    sign = 1 if longest else -1
    hits, chance, counted = 0, 0.0, 0
    for query in queries:
        lengths = [sign * len(choice) for choice in query.choices]
        if lengths.count(max(lengths)) == 1:  # where none stands out, length tells nothing
            counted += 1
            hits += lengths.index(max(lengths)) == query.gold_index
            chance += 1 / len(lengths)
    return {
        "questions": counted,
        "share": round(hits / counted, 4) if counted else 0.0,
        "by_chance": round(chance / counted, 4) if counted else 0.0,
    }


def _row(query: Query, closing: Closing) -> dict[str, Any]:
    made = closing.query
    converted = None if made is None else {"question": made.question, "choices": list(made.choices), "answer": made.answer}
    return {
        "id": query.id,
        "split": str(query.split),
        "rule": closing.rule,
        "reason": closing.reason,
        "original": {"question": query.question, "answer": query.answer},
        "converted": converted,
    }
