"""CIDEr-D: how much of the weighted n-grams a generated report shares with its reference (Vedantam et al., 2015)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from medrag_lightning.metrics.bootstrap import Floats
from medrag_lightning.metrics.parsing import tokens_of

LONGEST = 4
SIGMA = 6.0  # words
Grams = Counter[tuple[str, ...]]


def cider_d(gold: Sequence[str], answers: Sequence[str | None]) -> Floats:
    """The score of each answer against its one reference, (N,), in [0, 10]; 0 for an empty answer (the paper's Section 5).

    For n = 1 to 4 with g the vector of tf-idf weights of a text's n-grams,

        10 exp(-(l_answer - l_gold)^2 / (2 6^2)) sum_w min(g_w(answer), g_w(gold)) g_w(gold) / (|g(answer)| |g(gold)|),

    averaged over n; idf(w) = ln(N / references that hold w), with 1 for one that none holds. The references themselves are the
    corpus that idf is counted in: numbers of different test sets cannot be compared, and of a single item it is 0.
    """
    if len(gold) != len(answers):
        raise ValueError(f"{len(gold)} gold answers for {len(answers)} predictions")
    references = [tokens_of(text) for text in gold]
    held = Counter(gram for words in references for n in range(1, LONGEST + 1) for gram in set(_grams(words, n)))
    pairs = zip((tokens_of(text or "") for text in answers), references, strict=True)
    return np.array([_score(words, reference, held, len(gold)) for words, reference in pairs], np.float64)


def _score(words: Sequence[str], reference: Sequence[str], held: Mapping[tuple[str, ...], int], count: int) -> float:
    shared = 0.0
    for n in range(1, LONGEST + 1):
        mine, theirs = (_weighted(_grams(text, n), held, count) for text in (words, reference))
        norms = math.hypot(*mine.values()) * math.hypot(*theirs.values())
        if norms:
            shared += sum(min(weight, theirs.get(gram, 0.0)) * theirs.get(gram, 0.0) for gram, weight in mine.items()) / norms
    return 10 * math.exp(-((len(words) - len(reference)) ** 2) / (2 * SIGMA**2)) * shared / LONGEST


def _grams(words: Sequence[str], n: int) -> Grams:
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))


def _weighted(grams: Grams, held: Mapping[tuple[str, ...], int], count: int) -> dict[tuple[str, ...], float]:
    return {gram: times * math.log(count / max(1, held.get(gram, 0))) for gram, times in grams.items()}
