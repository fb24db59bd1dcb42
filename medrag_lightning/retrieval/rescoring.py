"""Exact scores of shortlisted vectors, and the best of them in one order for one question."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Vectors = NDArray[np.floating[Any]]
PAIR_CHUNK = 1024  # pairs whose vectors stay in the processor's cache


def exact_scores(query_BD: Floats, vectors_ND: Vectors, who_P: Integers, row_P: Integers) -> Floats:
    """Inner product of query ``who`` and vector ``row`` of each pair, summed in float64: float32 (P,).

    A pair is summed alone, so that equal vectors have equal scores wherever they stand and whatever else is asked.
    """
    score_P = np.empty(len(row_P), np.float32)
    for start in range(0, len(row_P), PAIR_CHUNK):
        part = slice(start, start + PAIR_CHUNK)
        left, right = vectors_ND[row_P[part]].astype(np.float64), query_BD[who_P[part]].astype(np.float64)
        score_P[part] = np.vecdot(left, right)
    return score_P


def best(who_P: Integers, row_P: Integers, score_P: Floats, queries: int, k: int) -> tuple[Floats, Integers, NDArray[np.bool_]]:
    """The k best rows of each query, highest score first and lowest row first among equals: (B, k) scores and rows.

    Args:
        who_P: the query of each pair, ascending.
        row_P: the row of each pair, none twice for a query.
        score_P: their scores.
        queries: B.
        k: at least 1.

    Returns:
        Scores, rows, and (B,) whether the query had k pairs; without them its scores and rows mean nothing.
    """
    order = np.lexsort((row_P, -score_P, who_P))
    start_B = np.searchsorted(who_P, np.arange(queries))
    enough_B = np.diff(np.append(start_B, len(who_P))) >= k
    place_BK = np.minimum(start_B[:, None] + np.arange(k), len(order) - 1)
    chosen_BK = order[place_BK] if len(order) else np.zeros((queries, k), np.int64)
    if not len(order):
        return np.zeros((queries, k), np.float32), chosen_BK, enough_B
    return score_P[chosen_BK], row_P[chosen_BK], enough_B
