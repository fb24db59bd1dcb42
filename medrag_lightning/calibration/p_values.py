"""How surprising a small risk would be, were the true one above a level: the Hoeffding-Bentkus p-value.

Sources: Bates, Angelopoulos, Lei, Malik and Jordan, "Distribution-free, risk-controlling prediction sets" (2021); Angelopoulos,
Bates, Candes, Jordan and Lei, "Learn then Test" (2021). RULE (EMNLP 2024) uses it to choose a number of documents.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def hoeffding_bentkus(total: float, n: int, alpha: float) -> float:
    """p-value of "the mean loss is above alpha": min(exp(-n h1(min(r, alpha), alpha)), e P(Bin(n, alpha) <= ceil(n r))).

    r = total / n; h1 is the relative entropy of two coins, in nats. Valid for independent losses in [0, 1] of one distribution.

    Args:
        total: sum of the losses, in [0, n].
        n: how many; 0 tells nothing, and gives 1.
        alpha: the level, in (0, 1).

    Raises:
        ValueError: total or alpha are outside of their ranges.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha}")
    if not (n >= 0 and -1e-9 <= total <= n + 1e-9):
        raise ValueError(f"the sum of {n} losses in [0, 1] cannot be {total}")
    if n == 0:
        return 1.0
    share = min(max(total / n, 0.0), 1.0)
    hoeffding = math.exp(-n * coin_entropy(min(share, alpha), alpha))
    bentkus = math.e * binomial_cdf(math.ceil(total), n, alpha)
    return min(1.0, hoeffding, bentkus)


def coin_entropy(share: float, alpha: float) -> float:
    """h1(share, alpha) = share ln(share / alpha) + (1 - share) ln((1 - share) / (1 - alpha)); 0 where they are equal."""
    told = 0.0 if share <= 0 else share * math.log(share / alpha)
    return told + (0.0 if share >= 1 else (1 - share) * (math.log1p(-share) - math.log1p(-alpha)))


def binomial_cdf(most: int, n: int, share: float) -> float:
    """P(Bin(n, share) <= most)."""
    if most >= n:
        return 1.0
    if most < 0:
        return 0.0
    log_factorial = _log_factorials(1 << max(6, n.bit_length()))
    k = np.arange(most + 1)
    log_ways = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
    return float(min(1.0, np.exp(log_ways + k * math.log(share) + (n - k) * math.log1p(-share)).sum()))


def upper_bound(p_value_at: Callable[[float], float], level: float) -> float:
    """The least risk level that a p-value `p_value_at(alpha)` <= `level` speaks for: an upper bound of the risk; 1 for none.

    One such bound holds with probability 1 - level; M of them hold together with 1 - delta for level = delta / M.
    """
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if p_value_at(middle) <= level else (middle, high)
    return high


def required_n(risk: float, alpha: float, delta: float, candidates: int = 1) -> tuple[int, int] | None:
    """How many calibration units show a risk to be at most alpha where they themselves have `risk`; None if no number does.

    Bonferroni's correction for so many `candidates` is in it. Sums are rounded up in the p-value, so there are two numbers:
    the first that may do, and the one from which on every number does.
    """
    if not 0 <= risk < alpha:
        return None
    level = delta / candidates
    most = math.ceil(-math.log(level) / coin_entropy(risk, alpha))  # Hoeffding's part alone does, from here on
    does = [n for n in range(1, most + 1) if hoeffding_bentkus(round(risk * n, 9), n, alpha) <= level]
    lacks = set(range(1, most + 1)) - set(does)
    return does[0], max(lacks, default=0) + 1


@lru_cache(maxsize=8)
def _log_factorials(most: int) -> Floats:
    """ln 0!, ..., ln most!"""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])
