"""Which of many hypotheses may be rejected together, so that a false one is among them with probability delta at most.

Sources: fixed-sequence testing: Maurer, Hothorn and Lehmacher (1995); graphical testing: Bretz, Maurer, Brannath and Posch
(2009); as used by Learn-then-Test (2021).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def bonferroni(p_M: Floats, delta: float) -> Flags:
    """Those with p <= delta / M."""
    return np.asarray(p_M <= delta / max(len(p_M), 1), dtype=bool)


def fixed_sequence(p_M: Floats, delta: float, order: Sequence[int]) -> Flags:
    """Those before the first in `order` with p > delta. The order must not depend on the data that the p-values are from."""
    held = np.zeros(len(p_M), dtype=bool)
    for place in order:
        if p_M[place] > delta:
            break
        held[place] = True
    return held


def graphical(p_M: Floats, delta: float, weight_M: Floats, passes_MM: Floats) -> Flags:
    """Each is tested with its share of delta; when one is rejected, its share goes to others.

    Args:
        p_M: p-values.
        delta: of all together.
        weight_M: shares of delta; their sum is 1 at most.
        passes_MM: to whom a share goes: rows sum to 1 at most, the diagonal is 0.

    Raises:
        ValueError: weights or passes are not as said.
    """
    weight_M, passes_MM = np.array(weight_M, dtype=np.float64), np.array(passes_MM, dtype=np.float64)
    size = len(p_M)
    if weight_M.shape != (size,) or passes_MM.shape != (size, size):
        raise ValueError(
            f"{size} p-values need as many weights and a square of passes, got {weight_M.shape}, {passes_MM.shape}"
        )
    sums = (weight_M.sum(), passes_MM.sum(axis=1).max(initial=0.0))
    if min(weight_M.min(initial=0), passes_MM.min(initial=0)) < 0 or max(sums) > 1 + 1e-9 or passes_MM.diagonal().any():
        raise ValueError(
            "weights and each row of passes must not be negative, sum to 1 at most, and pass nothing to themselves"
        )
    held = np.zeros(size, dtype=bool)
    while True:
        open_M = np.flatnonzero(~held & (weight_M > 0) & (p_M <= delta * weight_M))
        if not len(open_M):
            return held
        one = int(open_M[np.argmin(p_M[open_M] / weight_M[open_M])])
        held[one] = True
        weight_M, passes_MM = _passed_on(one, weight_M, passes_MM, held)


def neighbours(place_MA: NDArray[np.int64]) -> Floats:
    """Passes to the nearest on a grid: `place_MA` is where each hypothesis stands on A axes. A lone one passes to nobody."""
    apart_MM = np.abs(place_MA[:, None] - place_MA[None]).sum(axis=2)
    near_MM = (apart_MM == 1).astype(np.float64)
    count_M = near_MM.sum(axis=1, keepdims=True)
    share_MM: Floats = np.divide(near_MM, count_M, out=np.zeros_like(near_MM), where=count_M > 0)
    return share_MM


def _passed_on(one: int, weight_M: Floats, passes_MM: Floats, held: Flags) -> tuple[Floats, Floats]:
    """Weights and passes after `one` was rejected."""
    weight_M = weight_M + weight_M[one] * passes_MM[one]
    weight_M[one] = 0.0
    through_MM: Floats = passes_MM + passes_MM[:, [one]] * passes_MM[[one]]
    back_M = 1 - passes_MM[:, one] * passes_MM[one]
    made_MM: Floats = np.divide(through_MM, back_M[:, None], out=np.zeros_like(through_MM), where=back_M[:, None] > 1e-12)
    np.fill_diagonal(made_MM, 0.0)
    made_MM[held], made_MM[:, held] = 0.0, 0.0
    return weight_M, made_MM
