"""Scores of shortlisted vectors, and the best of them in one order for one question."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Vectors = NDArray[np.floating[Any]]
PAIR_CHUNK = 128  # pairs whose vectors stay in the processor's cache
NOTHING = 0x7FFFFFFF << 32  # after every score


def pair_scores(query_BD: Floats, vectors_ND: Vectors, who_P: Integers, row_P: Integers, sums: DTypeLike) -> Floats:
    """Inner product of query ``who`` (ascending) and vector ``row`` of each pair, summed in `sums`: float32 (P,).

    A pair is summed alone, so that equal vectors have equal scores wherever they stand and whatever else is asked. In float64
    they are exact, to the last bit of float32; in float32, in half the time, to a few of its last bits.
    """
    vectors_ND = np.asarray(vectors_ND)  # rows of a mapped file, without the cost of its class at every look
    score_P = np.empty(len(row_P), np.float32)
    bounds = np.searchsorted(who_P, np.arange(len(query_BD) + 1)).tolist()
    for query_D, (first, last) in zip(query_BD.astype(sums), pairwise(bounds), strict=True):
        for start in range(first, last, PAIR_CHUNK):
            part = slice(start, min(start + PAIR_CHUNK, last))
            score_P[part] = np.vecdot(vectors_ND.take(row_P[part], axis=0, mode="clip").astype(sums, copy=False), query_D)
    return score_P


def best(who_P: Integers, row_P: Integers, score_P: Floats, queries: int, k: int) -> tuple[Floats, Integers, NDArray[np.bool_]]:
    """The k best rows of each query, highest score first and lowest row first among equals: (B, k) scores and rows.

    Args:
        who_P: the query of each pair, ascending.
        row_P: the row of each pair, none twice for a query; below 2^32.
        score_P: their scores.
        queries: B.
        k: at least 1.

    Returns:
        Scores, rows, and (B,) whether the query had k pairs; without them its scores and rows mean nothing.
    """
    start_B = np.searchsorted(who_P, np.arange(queries))
    count_B = np.diff(np.append(start_B, len(who_P)))
    # One integer holds score and row: sorting integers takes a fraction of the time of sorting by two keys.
    key_BW = np.full((queries, max(k, int(count_B.max(initial=0)))), NOTHING)
    key_BW[who_P, np.arange(len(who_P)) - start_B[who_P]] = (_ascending(0 - score_P).astype(np.int64) << 32) | row_P
    key_BW.sort(axis=1)
    key_BK = key_BW[:, :k]
    score_BK = 0 - _ascending((key_BK >> 32).astype(np.int32).view(np.float32)).view(np.float32)
    return score_BK, key_BK & 0xFFFFFFFF, count_B >= k


def _ascending(value: Floats) -> NDArray[np.int32]:
    """Bits of floats, turned so that they are in order as integers are; the same again turns them back."""
    bits = value.view(np.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
