"""Closed and open visual question answering, as statistics of item weights (see `bootstrap`).

Closed: accuracy, balanced accuracy, macro-F1. An invalid answer (None) is wrong for its gold class and is no class of
its own. Open: normalised exact match, token recall and token F1 (the scores of LLaVA-Med and JOMED, Section 4).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from medrag_lightning.metrics.bootstrap import Floats, Statistic, ratio, weighted_mean
from medrag_lightning.metrics.parsing import label_of, normalise_answer


def correct(gold: Sequence[str], answers: Sequence[str | None]) -> Floats:
    """1 where the closed answer is the gold one, else 0; shape (N,). Invalid answers (None) are 0."""
    _same_length(gold, answers)
    return np.array([float(a is not None and label_of(a) == label_of(g)) for g, a in zip(gold, answers, strict=True)])


def accuracy(gold: Sequence[str], answers: Sequence[str | None]) -> Statistic:
    """Share of correct answers."""
    return weighted_mean(correct(gold, answers))


def balanced_accuracy(gold: Sequence[str], answers: Sequence[str | None]) -> Statistic:
    """Mean recall over the classes that occur in gold (of the resample). Equals sklearn's `balanced_accuracy_score`."""
    hit_NC, gold_NC, _ = _one_hot(gold, answers)

    def statistic(weights_FN: Floats) -> Floats:
        recall_FC = ratio(weights_FN @ hit_NC, weights_FN @ gold_NC)
        return _mean_of_present(recall_FC)

    return statistic


def macro_f1(gold: Sequence[str], answers: Sequence[str | None]) -> Statistic:
    """Mean over classes of F1 = 2 TP / (gold + predicted), each class alike.

    Classes are the distinct answers that occur in gold or as a valid prediction (of the resample); where questions have
    different choices, all of them together. Equals ``sklearn.metrics.f1_score(average="macro")`` when no answer is
    invalid.
    """
    hit_NC, gold_NC, answer_NC = _one_hot(gold, answers)

    def statistic(weights_FN: Floats) -> Floats:
        return _mean_of_present(ratio(2 * (weights_FN @ hit_NC), weights_FN @ (gold_NC + answer_NC)))

    return statistic


def class_scores(gold: Sequence[str], answers: Sequence[str | None], label: str) -> dict[str, Statistic]:
    """`precision`, `recall` and `f1` of one class, such as the positive one of yes/no questions. NaN where undefined: no answer
    (precision) or no gold answer (recall) is `label`, or neither (f1). An invalid answer is no answer of any class.
    """
    _same_length(gold, answers)
    wanted = label_of(label)
    told_N = np.array([float(label_of(g) == wanted) for g in gold])
    said_N = np.array([float(a is not None and label_of(a) == wanted) for a in answers])

    def share(top_N: Floats, bottom_N: Floats) -> Statistic:
        return lambda weights_FN: ratio(weights_FN @ top_N, weights_FN @ bottom_N)

    hit_N = told_N * said_N
    return {"precision": share(hit_N, said_N), "recall": share(hit_N, told_N), "f1": share(2 * hit_N, told_N + said_N)}


def invalid(answers: Sequence[str | None]) -> Statistic:
    """Share of answers that could not be read: None, or nothing but white space."""
    return weighted_mean([float(answer is None or not answer.strip()) for answer in answers])


def exact_match(gold: Sequence[str], answers: Sequence[str | None]) -> Floats:
    """1 where the normalised texts are equal, else 0; shape (N,)."""
    _same_length(gold, answers)
    pairs = zip(gold, answers, strict=True)
    return np.array([float(a is not None and normalise_answer(a) == normalise_answer(g)) for g, a in pairs])


def token_recall(gold: Sequence[str], answers: Sequence[str | None]) -> Floats:
    """Share of the gold tokens that are in the answer, counted with multiplicity; shape (N,), NaN where gold has no
    token.

    The field's "open recall". LLaVA-Med's script lets a repeated answer token count more than once; here it cannot. It
    still rewards long answers, which is why token F1 stands beside it.
    """
    _same_length(gold, answers)
    return np.array([_overlap(g, a)[0] for g, a in zip(gold, answers, strict=True)], dtype=np.float64)


def token_f1(gold: Sequence[str], answers: Sequence[str | None]) -> Floats:
    """2 |common tokens| / (|gold tokens| + |answer tokens|); shape (N,), NaN where gold is blank."""
    _same_length(gold, answers)
    return np.array([_overlap(g, a)[1] for g, a in zip(gold, answers, strict=True)], dtype=np.float64)


def rouge_l(gold: Sequence[str], answers: Sequence[str | None]) -> Floats:
    """ROUGE-L: 2 |longest common subsequence| / (|gold tokens| + |answer tokens|); shape (N,), NaN where gold is blank.

    The F-measure with equal weights of Lin (2004), on normalised words: unlike token F1, their order counts.
    """
    _same_length(gold, answers)
    return np.array([_ordered_overlap(g, a) for g, a in zip(gold, answers, strict=True)], dtype=np.float64)


def _ordered_overlap(gold: str, answer: str | None) -> float:
    one, other = (normalise_answer(text).split() for text in (gold, answer or ""))
    if not one:
        return float("nan")
    longest = [0] * (len(other) + 1)  # common subsequence of the gold tokens so far and the first n of the answer
    for token in one:
        before = 0
        for place, mine in enumerate(other, 1):
            before, longest[place] = longest[place], before + 1 if mine == token else max(longest[place], longest[place - 1])
    return 2 * longest[-1] / (len(one) + len(other))


def _overlap(gold: str, answer: str | None) -> tuple[float, float]:
    gold_tokens, own = (Counter(normalise_answer(text).split()) for text in (gold, answer or ""))
    if not gold_tokens:
        return float("nan"), float("nan")
    common = (gold_tokens & own).total()
    return common / gold_tokens.total(), 2 * common / (gold_tokens.total() + own.total())


def _one_hot(gold: Sequence[str], answers: Sequence[str | None]) -> tuple[Floats, Floats, Floats]:
    """Per item and class: hit, gold, answered; each float64 (N, C)."""
    _same_length(gold, answers)
    gold_labels = [label_of(g) for g in gold]
    labels = [None if a is None else label_of(a) for a in answers]
    classes = {name: i for i, name in enumerate(sorted({*gold_labels, *(name for name in labels if name is not None)}))}
    gold_NC, answer_NC = np.zeros((len(gold), len(classes))), np.zeros((len(gold), len(classes)))
    for row, (g, a) in enumerate(zip(gold_labels, labels, strict=True)):
        gold_NC[row, classes[g]] = 1
        if a is not None:
            answer_NC[row, classes[a]] = 1
    return gold_NC * answer_NC, gold_NC, answer_NC


def _mean_of_present(values_FC: Floats) -> Floats:
    present_FC = ~np.isnan(values_FC)
    return ratio(np.where(present_FC, values_FC, 0).sum(axis=1), present_FC.sum(axis=1).astype(np.float64))


def _same_length(gold: Sequence[str], answers: Sequence[str | None]) -> None:
    if len(gold) != len(answers):
        raise ValueError(f"{len(gold)} gold answers for {len(answers)} predictions")
