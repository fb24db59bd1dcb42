"""Whether the words of a question give its answer away: what a model that never sees an image makes of held-out questions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medrag_lightning.data.audit.leak import Leak
from medrag_lightning.records import AnswerType, Query, Split

MARGIN = 0.15  # of accuracy above the floor
MIN_TRAIN, MIN_JUDGED = 50, 30
STANDARD_ERRORS = 2.0
REMEDY = (
    "compare every accuracy with the row question-only of the results, not with majority; if the wording gives the answer away "
    "(one phrase for each answer), ask all of them in the same words"
)
NEEDED = "pip install 'medrag-lightning[train]'"


@dataclass(frozen=True, slots=True)
class Blind:
    """Accuracies on `count` held-out closed questions: of words alone, and of the most frequent answer to the same choices."""

    words: float
    floor: float
    count: int
    standard_error: float

    @property
    def tells(self) -> bool:
        """Whether words do better than the floor by more than `MARGIN`, and surely so."""
        return self.words - self.floor - STANDARD_ERRORS * self.standard_error > 0 and self.words - self.floor > MARGIN


def answerable_leaks(queries: Mapping[Split, Sequence[Query]]) -> list[Leak]:
    """A warning for each held-out split whose closed questions words alone answer far better than the floor.

    Some data sets ask things that general knowledge answers, so this refuses nothing. A note says where it could not be looked
    at because scikit-learn is missing.
    """
    train = _closed(queries.get(Split.TRAIN, ()))
    found: list[Leak] = []
    for split in (Split.VAL, Split.TEST):
        judged = _closed(queries.get(split, ()))
        if len(train) < MIN_TRAIN or len(judged) < MIN_JUDGED:
            continue
        try:
            blind = blind_accuracy(train, judged)
        except ModuleNotFoundError as error:
            what = f"whether questions can be answered without their image was not looked at: {error.name} is not installed"
            return [Leak("answerable_not_checked", "note", f"split {split}", what, NEEDED, ("train", str(split)))]
        if blind.tells:
            what = (
                f"closed questions of {split} can be answered without their image: a model of the words alone, learnt from "
                f"train, is right in {blind.words:.0%} of {blind.count:,}, the most frequent answer to the same choices in "
                f"{blind.floor:.0%}"
            )
            found.append(
                Leak("answerable_without_image", "warning", f"split {split}", what, REMEDY, ("train", str(split)), blind.count)
            )
    return found


def blind_accuracy(train: Sequence[Query], judged: Sequence[Query]) -> Blind:
    """What logistic regression on word pairs (TF-IDF) of the question alone gets right, and the majority floor.

    An answer is looked for among the question's own choices. The floor is the answer that train gives most often to a question
    of the same choices, else to any.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import SGDClassifier

    answers = [query.answer or "" for query in train]
    floor = _majority(train)
    right_floor = np.array([floor(query) == query.answer for query in judged])
    right = right_floor
    if len(set(answers)) > 1:
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=50_000, token_pattern=r"(?u)\b\w+\b")
        model = SGDClassifier(loss="log_loss", alpha=1e-5, max_iter=30, random_state=0)  # logistic regression, by steps
        model.fit(words.fit_transform([query.question for query in train]), answers)
        logit = model.decision_function(words.transform([query.question for query in judged]))
        logit_QA = np.column_stack([-logit, logit]) if logit.ndim == 1 else logit
        column = {answer: place for place, answer in enumerate(model.classes_)}
        right = np.array([_best(query, row, column) == query.answer for query, row in zip(judged, logit_QA, strict=True)])
    error = float(np.std(right.astype(float) - right_floor) / np.sqrt(len(judged)))
    return Blind(float(right.mean()), float(right_floor.mean()), len(judged), error)


def _closed(queries: Sequence[Query]) -> list[Query]:
    return [query for query in queries if query.answer_type is AnswerType.CLOSED and query.answer is not None]


def _majority(train: Sequence[Query]) -> _Majority:
    of_choices: dict[frozenset[str], Counter[str]] = defaultdict(Counter)
    in_all: Counter[str] = Counter()
    for query in train:
        assert query.answer is not None
        of_choices[frozenset(query.choices)][query.answer] += 1
        in_all[query.answer] += 1
    return _Majority(of_choices, in_all)


@dataclass(frozen=True, slots=True)
class _Majority:
    of_choices: Mapping[frozenset[str], Counter[str]]
    in_all: Counter[str]

    def __call__(self, query: Query) -> str:
        counted = self.of_choices.get(frozenset(query.choices), self.in_all)
        return max(query.choices, key=lambda choice: counted[choice])


def _best(query: Query, logit_A: np.ndarray[tuple[int], np.dtype[np.float64]], column: Mapping[str, int]) -> str:
    known = {choice: logit_A[column[choice]] for choice in query.choices if choice in column}
    return max(known, key=lambda choice: known[choice]) if known else query.choices[0]
