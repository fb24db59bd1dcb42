"""Two systems that never look at an image or at evidence. A score means something only beside theirs.

*majority*: the most frequent training answer. *question-only*: a text classifier fitted on the training questions,
which finds out how much of a benchmark its wording gives away (the "blind" baseline of the MR-RAG spec, R18).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from medrag_lightning.metrics.parsing import label_of, normalise_answer
from medrag_lightning.records import AnswerType, Prediction, Query, Regime

MAJORITY = "majority"
QUESTION_ONLY = "question-only"
MAX_OPEN_ANSWERS = 200


class Majority:
    """Answers with the most frequent training answer.

    Closed: the most frequent among the training questions with the same choices; where there are none, among all closed
    training answers that the question allows; else its first choice. Open: the most frequent open training answer.

    Args:
        train: the training queries; those without a gold answer are left out.
    """

    def __init__(self, train: Sequence[Query]) -> None:
        self.notes: list[str] = []
        self._by_choices: dict[frozenset[str], Counter[str]] = defaultdict(Counter)
        self._closed: Counter[str] = Counter()
        open_answers: Counter[str] = Counter()
        spelling: dict[str, str] = {}
        for query in train:
            if query.answer is None:
                continue
            if query.answer_type is AnswerType.CLOSED:
                self._by_choices[_choice_set(query)][label_of(query.answer)] += 1
                self._closed[label_of(query.answer)] += 1
            else:
                open_answers[normalise_answer(query.answer)] += 1
                spelling.setdefault(normalise_answer(query.answer), query.answer)
        self.open_answer = spelling[_most_frequent(open_answers)] if open_answers else None
        if not self._closed and not open_answers:
            self.notes.append("majority: no training answers; the first choice is given")

    def counts(self, query: Query) -> list[int]:
        """How often each choice of a closed query was the training answer."""
        same = self._by_choices.get(_choice_set(query), self._closed)
        return [same[label_of(choice)] for choice in query.choices]

    def predict(self, queries: Sequence[Query]) -> list[Prediction]:
        """One prediction a query; probabilities are training frequencies with one row spread over the choices."""
        return [self._answer(query) for query in queries]

    def _answer(self, query: Query) -> Prediction:
        if query.answer_type is AnswerType.OPEN:
            return _prediction(query, MAJORITY, self.open_answer)
        counts = self.counts(query)
        share = [(count + 1 / len(counts)) / (sum(counts) + 1) for count in counts]
        return _closed_prediction(query, MAJORITY, share)


class QuestionOnly:
    """Logistic regression on words and word pairs of the question (TF-IDF); one model for closed, one for open
    questions.

    A closed question's answer is the most probable of its choices; a choice never seen in training shares half a
    training row's mass. An open question's answer is the most probable of the most frequent open training answers.
    Where a model cannot be fitted (fewer than two different answers or two different questions), it answers as
    `Majority` does, and `notes` says so.

    Args:
        train: the training queries; those without a gold answer are left out.
        max_open_answers: how many different open answers are told apart, the most frequent first.
    """

    def __init__(self, train: Sequence[Query], max_open_answers: int = MAX_OPEN_ANSWERS) -> None:
        self.notes: list[str] = []
        self._majority = Majority(train)
        known = [query for query in train if query.answer is not None]
        closed = [(q.question, label_of(q.answer or "")) for q in known if q.answer_type is AnswerType.CLOSED]
        opened = [(q.question, normalise_answer(q.answer or "")) for q in known if q.answer_type is AnswerType.OPEN]
        self._spelling: dict[str, str] = {}
        for query in known:
            self._spelling.setdefault(normalise_answer(query.answer or ""), query.answer or "")
        frequent = {answer for answer, _ in _ranked(Counter(answer for _, answer in opened))[:max_open_answers]}
        self._closed_rows = len(closed)
        self._closed_model = self._fit(closed, "closed")
        self._open_model = self._fit([row for row in opened if row[1] in frequent], "open")

    def predict(self, queries: Sequence[Query]) -> list[Prediction]:
        """One prediction a query, in query order."""
        answers: dict[int, Prediction] = {}
        for model, kind in ((self._closed_model, AnswerType.CLOSED), (self._open_model, AnswerType.OPEN)):
            places = [i for i, query in enumerate(queries) if query.answer_type is kind]
            if not places:
                continue
            mine = [queries[i] for i in places]
            given = self._as_majority(mine) if model is None else self._answer(model, mine, kind)
            answers.update(zip(places, given, strict=True))
        return [answers[i] for i in range(len(queries))]

    def _fit(self, rows: Sequence[tuple[str, str]], kind: str) -> Any:
        if not rows:
            return None
        for what, number in (("question", len({q for q, _ in rows})), ("answer", len({a for _, a in rows}))):
            if number < 2:
                self.notes.append(f"question-only: only one {kind} training {what}, so it answers as majority does")
                return None
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
        model = make_pipeline(words, LogisticRegression(C=10.0, max_iter=1000))
        return model.fit([question for question, _ in rows], [answer for _, answer in rows])

    def _answer(self, model: Any, queries: Sequence[Query], kind: AnswerType) -> list[Prediction]:
        probability_NC = model.predict_proba([query.question for query in queries])
        classes = [str(name) for name in model.classes_]
        if kind is AnswerType.OPEN:
            best = [self._spelling[classes[place]] for place in probability_NC.argmax(axis=1)]
            return [_prediction(query, QUESTION_ONLY, answer) for query, answer in zip(queries, best, strict=True)]
        column = {name: i for i, name in enumerate(classes)}
        unseen = 0.5 / self._closed_rows
        predictions = []
        for query, row in zip(queries, probability_NC, strict=True):
            places = [column.get(label_of(choice)) for choice in query.choices]
            if all(place is None for place in places):
                predictions += self._as_majority([query])
                continue
            mass = [unseen if place is None else max(float(row[place]), 1e-12) for place in places]
            predictions.append(_closed_prediction(query, QUESTION_ONLY, [m / sum(mass) for m in mass]))
        return predictions

    def _as_majority(self, queries: Sequence[Query]) -> list[Prediction]:
        given = self._majority.predict(queries)
        return [_renamed(prediction, QUESTION_ONLY) for prediction in given]


def control_predictions(train: Sequence[Query], test: Sequence[Query]) -> tuple[list[Prediction], list[str]]:
    """What both controls answer to the test queries, and their notes."""
    majority, question_only = Majority(train), QuestionOnly(train)
    return majority.predict(test) + question_only.predict(test), majority.notes + question_only.notes


def _choice_set(query: Query) -> frozenset[str]:
    return frozenset(label_of(choice) for choice in query.choices)


def _ranked(counter: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))


def _most_frequent(counter: Counter[str]) -> str:
    return _ranked(counter)[0][0]


def _closed_prediction(query: Query, system: str, share: Sequence[float]) -> Prediction:
    best = max(range(len(share)), key=lambda c: share[c])
    return _prediction(query, system, query.choices[best], tuple(math.log(p) for p in share))


def _prediction(query: Query, system: str, answer: str | None, logp_nats: tuple[float, ...] = ()) -> Prediction:
    return Prediction(
        query_id=query.id, regime=Regime.NONE, answer=answer, raw=answer or "", gold=query.answer,
        answer_type=query.answer_type, choices=query.choices, logp_nats=logp_nats, need=query.need,
        question=query.question, extra={"system": system},
    )  # fmt: skip


def _renamed(prediction: Prediction, system: str) -> Prediction:
    return replace(prediction, extra={**prediction.extra, "system": system})
