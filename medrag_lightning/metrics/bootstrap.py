"""Percentile bootstrap over queries or over clusters of queries (patients, studies, images).

A *statistic* here is a function of item weights: float64 (F, N) weights in, (F,) values out. A resample is a row of
weights: how often each item was drawn. The point estimate is the same function at weights 1, so a number and its
interval cannot be computed by two different formulas, and macro-F1 costs a few matrix products instead of a loop over
resamples.

Questions about one patient are not independent. Resampling whole clusters keeps their dependence, and gives the wider,
honest interval (cluster bootstrap: Davison and Hinkley 1997, Section 3.8).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]

BIASED = "its value lies outside its interval: biased at this sample size (ECE is, upwards)"
CHUNK_ELEMENTS = 8_000_000  # weights held at a time: 64 MB
KEPT_ELEMENTS = 4_000_000  # weights kept for the next number: 32 MB


@dataclass(frozen=True, slots=True)
class Metric:
    """A number, its interval, and from how many items; or NaN and the reason why there is none.

    Attributes:
        value: the point estimate; NaN where it cannot be computed.
        low, high: ends of the percentile interval; NaN where it cannot be computed.
        n: how many items it was computed from.
        reason: why value or interval is missing or odd; empty otherwise.
    """

    value: float
    low: float
    high: float
    n: int
    reason: str = ""

    @classmethod
    def missing(cls, reason: str, n: int = 0) -> Metric:
        """No value, and why."""
        return cls(math.nan, math.nan, math.nan, n, reason)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON; NaN becomes null."""
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How intervals are made.

    A percentile interval cannot see what the sample lacks: a share of exactly 0 or 1 gets an interval of width 0.

    Args:
        resamples: how many; 0 for no intervals.
        confidence: share of the resampling distribution inside the interval.
        seed: of the generator; the same seed, items and clusters give the same interval.
    """

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples != 0 and self.resamples < 100:
            raise ValueError(f"resamples must be 0 (no intervals) or at least 100, got {self.resamples}")
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence must lie in [0.5, 1), got {self.confidence}")

    def metric(self, statistic: Statistic, clusters_N: Sequence[str]) -> Metric:
        """The statistic over N items with its interval; items with the same cluster are drawn together."""
        n = len(clusters_N)
        if n == 0:
            return Metric.missing("no items")
        value = float(statistic(np.ones((1, n)))[0])
        if not math.isfinite(value):
            return Metric.missing("undefined for these items", n)
        if self.resamples == 0:
            return Metric(value, math.nan, math.nan, n, "no resamples asked for")
        if len(set(clusters_N)) < 2:
            return Metric(value, math.nan, math.nan, n, "one cluster only: no interval")
        draws = np.concatenate([statistic(weights) for weights in self.weights(clusters_N)])
        tail = (1 - self.confidence) / 2
        low, high = np.nanquantile(draws, [tail, 1 - tail])
        return Metric(value, float(low), float(high), n, "" if low <= value <= high else BIASED)

    def weights(self, clusters_N: Sequence[str]) -> Iterator[Floats]:
        """Item weights of the resamples, in chunks (F, N), read only. Each draws all clusters once, with replacement."""
        clusters = tuple(clusters_N)
        if self.resamples * len(clusters) <= KEPT_ELEMENTS:
            yield _kept_weights(self.resamples, self.seed, clusters)
        else:
            yield from _draw_weights(self.resamples, self.seed, clusters)

    def paired_difference(self, a_N: Sequence[float], b_N: Sequence[float], clusters_N: Sequence[str]) -> Metric:
        """Mean of a minus mean of b over the same items, both resampled alike."""
        if not len(a_N) == len(b_N) == len(clusters_N):
            lengths = f"{len(a_N)}, {len(b_N)} and {len(clusters_N)} clusters"
            raise ValueError(f"paired values must have one length, got {lengths}")
        return self.metric(weighted_mean(np.subtract(a_N, b_N, dtype=np.float64)), clusters_N)


def _draw_weights(resamples: int, seed: int, clusters_N: tuple[str, ...]) -> Iterator[Floats]:
    _, cluster_of_N = np.unique(np.asarray(clusters_N, dtype=str), return_inverse=True)
    groups = int(cluster_of_N.max()) + 1
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK_ELEMENTS // max(groups, len(clusters_N)))
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = rng.integers(0, groups, size=(rows, groups)) + np.arange(rows)[:, None] * groups
        counts = np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups)
        yield counts[:, cluster_of_N].astype(np.float64)


@lru_cache(maxsize=1)  # many numbers in a row are of the same items
def _kept_weights(resamples: int, seed: int, clusters_N: tuple[str, ...]) -> Floats:
    weights_FN = np.concatenate(list(_draw_weights(resamples, seed, clusters_N)))
    weights_FN.flags.writeable = False
    return weights_FN


def paired_bootstrap(
    a_N: Sequence[float], b_N: Sequence[float], clusters_N: Sequence[str], settings: Bootstrap | None = None
) -> Metric:
    """`Bootstrap.paired_difference` with the default settings unless others are given."""
    return (settings or Bootstrap()).paired_difference(a_N, b_N, clusters_N)


def weighted_mean(values_N: Sequence[float] | Floats) -> Statistic:
    """The statistic "mean over items". NaN for a resample of total weight 0."""
    column = np.asarray(values_N, dtype=np.float64)

    def statistic(weights_FN: Floats) -> Floats:
        return ratio(weights_FN @ column, weights_FN.sum(axis=1))

    return statistic


def ratio(top: Floats, bottom: Floats) -> Floats:
    """`top / bottom`, NaN where the bottom is 0."""
    empty: Floats = np.full(np.broadcast(top, bottom).shape, np.nan)
    np.divide(top, bottom, out=empty, where=bottom != 0)
    return empty
