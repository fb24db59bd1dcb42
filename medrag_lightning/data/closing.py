"""Open questions made closed, so that a reader's belief in each answer can be scored.

JOMED turns open training questions into closed ones with a commercial language model, whose prompt is not published (JOMED
spec, "Retriever loss, paper form"). Here a `Closer` is a choice: rules that need nothing but the training set, or conversions
that a language model made elsewhere. Either way `closed_table.ClosedTable` stores and audits what came out.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from medrag_lightning.artifacts import counter_rng, fingerprint, sha256_file, write_jsonl
from medrag_lightning.data.row_files import read_rows
from medrag_lightning.data.rows import Row, faults_message
from medrag_lightning.data.tables.answers import YES_NO, closed_answer
from medrag_lightning.metrics import answer_tokens, normalise_answer
from medrag_lightning.records import AnswerType, Query, Split

REQUEST = """Turn this open question about a medical image into a closed one. The answer is given; use no knowledge of the
image. Keep the meaning of the question. Give either a yes-or-no question, or 2 to 5 answers of which exactly one is right.
Wrong answers must be of the same kind, about as long and as specific as the right one, and clearly wrong if the right one is
right. Do not make `yes` the answer more often than `no`. If that cannot be done, give null as the choices and say why.
Question: {question}
Answer: {answer}
Reply with one line of JSON: {{"id": {id}, "original": <the question above, unchanged>, "question": <the closed question>,
"choices": [<answers>], "answer": <the right one of them>, "reason": <only where choices is null>}}
"""
"""What `write_requests` asks of a language model; `LanguageModelCloser` reads the replies, one a line."""


@dataclass(frozen=True, slots=True)
class Closing:
    """A conversion: the closed query and the rule that made it, or None and the reason."""

    query: Query | None
    rule: str
    reason: str = ""


@runtime_checkable
class Closer(Protocol):
    """Makes open questions closed."""

    def learn(self, training: Sequence[Query]) -> None:
        """Sees the training questions, and no others, before any question is closed."""
        ...

    def close(self, query: Query) -> Closing:
        """The closed form of an answered open question; its gold answer is always among the choices."""
        ...

    def fingerprint(self) -> str:
        """What the conversions depend on beside the questions."""
        ...


class RuleCloser:
    """Three rules, the first that fits.

    1. ``yes_no``: the answer is yes or no.
    2. ``alternatives``: the question says "A or B" and the answer is one of them (data/tables/answers.py).
    3. ``frequent_two_words``: the answer stands among frequent answers of *training* questions that begin with the same two
       words (articles do not count) and of the same shape (number of words, digits or none), in an order drawn for the query.
       Answers that contain one another ("lung", "left lung") never stand together. ``frequent_first_word``: the same for the
       first word alone, where there are too few; its wrong answers are often of another kind, so the audit counts them apart.

    Answers of validation and test questions are never offered to any other question.

    Args:
        choices: answers of a question made by rule 3, the gold answer included.
        frequent: wrong answers are drawn from so many of the most frequent ones that fit.
        max_answer_words: a question with a longer answer stays open.
        draw: number of the draw; another gives other wrong answers.
    """

    def __init__(self, choices: int = 4, frequent: int = 12, max_answer_words: int = 5, draw: int = 0) -> None:
        if choices < 2 or frequent < choices - 1 or max_answer_words < 1:
            raise ValueError(
                "need choices >= 2, frequent >= choices - 1 and max_answer_words >= 1, got "
                f"{choices}, {frequent} and {max_answer_words}"
            )
        self.settings = {"choices": choices, "frequent": frequent, "max_answer_words": max_answer_words, "draw": draw}
        self._answers: dict[tuple[str, ...], Counter[str]] = {}
        self._written: dict[str, str] = {}

    def learn(self, training: Sequence[Query]) -> None:
        """Counts the open answers of training questions by how their question begins."""
        counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        self._written = {}
        for query in training:
            if query.split is not Split.TRAIN:
                raise ValueError(f"query {query.id!r} is of split {query.split}: only training questions may be learned from")
            if query.answer_type is AnswerType.OPEN and query.answer is not None:
                answer = normalise_answer(query.answer)
                self._written.setdefault(answer, " ".join(query.answer.split()).rstrip("."))
                for begin in _beginnings(query.question):
                    counts[begin][answer] += 1
        self._answers = dict(counts)

    def close(self, query: Query) -> Closing:
        """The closed query, or why it stays open."""
        if query.answer is None:
            return Closing(None, "none", "no gold answer")
        choices, answer = closed_answer(query.question, query.answer, marked_closed=True)
        if choices:
            return Closing(_closed(query, choices, answer), "yes_no" if choices == YES_NO else "alternatives")
        if len(answer_tokens(query.answer)) > self.settings["max_answer_words"]:
            return Closing(None, "none", "the answer is too long")
        gold = " ".join(query.answer.split()).rstrip(".")
        for begin in _beginnings(query.question):
            wrong = self._wrong_answers(query, begin)
            if len(wrong) == self.settings["choices"] - 1:
                made = [gold, *wrong]
                order = counter_rng(self.settings["draw"], "closing order", query.id).permutation(len(made))
                rule = "frequent_two_words" if len(begin) == 2 else "frequent_first_word"
                return Closing(_closed(query, tuple(made[place] for place in order), gold), rule)
        return Closing(None, "none", "too few training answers of its kind and shape")

    def fingerprint(self) -> str:
        """Of the settings; the training answers are fingerprinted with the questions."""
        return fingerprint(["rules", 1, self.settings])

    def _wrong_answers(self, query: Query, begin: tuple[str, ...]) -> list[str]:
        gold = normalise_answer(query.answer or "")
        counts = self._answers.get(begin, Counter())
        fitting = [answer for answer in sorted(counts, key=lambda a: (-counts[a], a)) if _fits(answer, [gold])]
        pool = fitting[: self.settings["frequent"]]
        order = counter_rng(self.settings["draw"], "closing", query.id).permutation(len(pool))
        chosen: list[str] = []
        for place in order:
            if len(chosen) < self.settings["choices"] - 1 and _fits(pool[place], [gold, *chosen]):
                chosen.append(pool[place])
        return [self._written[answer] for answer in chosen]


class LanguageModelCloser:
    """Conversions that a language model made elsewhere: one JSON object a line, as `REQUEST` asks for. Nothing is called here.

    Keys: `id`, `original` (the question that was converted, to notice that it has changed since), `choices` (null: refused),
    `answer`, and, where they differ, `question` and `reason`. A conversion whose answer is not the gold answer is kept only
    where the question was rewritten.

    Args:
        path: the JSONL file. Ask for its rows with `write_requests`.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._rows: dict[str, Row] | None = None

    def learn(self, training: Sequence[Query]) -> None:
        """Reads the file; ValueError lists its bad lines."""
        faults: list[str] = []
        rows: dict[str, Row] = {}
        for row in read_rows(self.path):
            fault = row.problem or _fault(row.values)
            if not fault and row.values["id"] in rows:
                fault = f"id {row.values['id']!r} occurs twice"
            if fault:
                faults.append(f"{row.where}: {fault}")
            else:
                rows[row.values["id"]] = row
        if faults:
            raise ValueError(faults_message("LanguageModelCloser", faults))
        self._rows = rows

    def close(self, query: Query) -> Closing:
        """The conversion of the file; ValueError where the question has changed since."""
        assert self._rows is not None, "learn comes first"
        row = self._rows.get(query.id)
        if row is None or query.answer is None:
            return Closing(None, "none", "no conversion in the file" if row is None else "no gold answer")
        told = row.values
        if told["original"] != query.question:
            was = f"query {query.id!r} was {told['original']!r} then"
            raise ValueError(f"{row.where}: {was}, {query.question!r} now; convert it again")
        if told.get("choices") is None:
            return Closing(None, "none", str(told.get("reason") or "refused by the language model"))
        question = str(told.get("question") or query.question)
        same = [choice for choice in told["choices"] if normalise_answer(choice) == normalise_answer(query.answer)]
        if question == query.question and same != [told["answer"]]:
            return Closing(None, "none", "the gold answer is not the one that is called right")
        return Closing(replace(_closed(query, tuple(told["choices"]), told["answer"]), question=question), "language_model")

    def fingerprint(self) -> str:
        """Of the file."""
        return fingerprint(["language model", sha256_file(self.path)])


def write_requests(queries: Sequence[Query], path: str | Path) -> int:
    """Writes a request (`id`, `prompt`) for each answered open question, to be put to a language model; gives their number."""
    asked = [query for query in queries if query.answer_type is AnswerType.OPEN and query.answer is not None]
    prompts = (REQUEST.format(id=json.dumps(q.id), question=q.question, answer=q.answer) for q in asked)
    write_jsonl(path, ({"id": query.id, "prompt": prompt} for query, prompt in zip(asked, prompts, strict=True)))
    return len(asked)


def _closed(query: Query, choices: tuple[str, ...], answer: str) -> Query:
    return replace(query, choices=choices, answer=answer, answer_type=AnswerType.CLOSED)


def _beginnings(question: str) -> Iterator[tuple[str, ...]]:
    """The kind of a question: its first two words, then its first alone."""
    words = tuple(answer_tokens(question))
    yield words[:2]
    yield words[:1]


def _fits(answer: str, others: Sequence[str]) -> bool:
    """Whether `answer` has the shape of all `others`, and neither contains the other."""
    mine = answer.split()
    for other in others:
        theirs = other.split()
        if _shape(mine) != _shape(theirs) or set(mine) <= set(theirs) or set(theirs) <= set(mine):
            return False
    return True


def _shape(words: Sequence[str]) -> tuple[int, bool]:
    return min(len(words), 4), any(character.isdigit() for word in words for character in word)


def _fault(values: Mapping[str, Any]) -> str | None:
    """What is wrong with a reply of a language model; None if nothing is."""
    for key in ("id", "original"):
        if not isinstance(values.get(key), str):
            return f"{key!r} is missing or not a text"
    choices = values.get("choices")
    if choices is None:
        return None
    texts = isinstance(choices, list) and all(isinstance(choice, str) and choice.strip() for choice in choices)
    if not texts or len({normalise_answer(choice) for choice in choices}) < max(2, len(choices)):
        return f"'choices' must be two or more different texts, got {choices!r}"
    if values.get("answer") not in choices:
        return f"'answer' {values.get('answer')!r} is not one of the choices {choices!r}"
    return None
