"""Whether a probability of 0.8 is right eight times in ten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.metrics.bootstrap import Floats, Statistic, ratio

BINS = 15


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """One bin of top-choice probability, (low, high]; mean probability and accuracy are NaN where `count` is 0."""

    low: float
    high: float
    count: int
    mean_probability: float
    accuracy: float


def expected_calibration_error(
    probability_N: Sequence[float], correct_N: Sequence[float], bins: int = BINS
) -> Statistic:
    """ECE (Guo et al. 2017): sum over bins of (share of items in the bin) x |accuracy - mean probability|. Perfect: 0.

    Args:
        probability_N: probability of the top choice, in [0, 1].
        correct_N: 1 where the top choice is the gold answer.
        bins: equal-width bins (l, h] of [0, 1]; 0 itself falls in the first.
    """
    probability, outcome = _checked(probability_N, correct_N)
    in_bin_NF = np.eye(bins)[_bin_of(probability, bins)]
    gap_NF = in_bin_NF * (outcome - probability)[:, None]

    def statistic(weights_FN: Floats) -> Floats:
        return ratio(np.abs(weights_FN @ gap_NF).sum(axis=1), weights_FN.sum(axis=1))

    return statistic


def reliability_bins(
    probability_N: Sequence[float], correct_N: Sequence[float], bins: int = BINS
) -> list[ReliabilityBin]:
    """What a reliability diagram shows: the bins of `expected_calibration_error`, empty ones included."""
    probability, outcome = _checked(probability_N, correct_N)
    index_N = _bin_of(probability, bins)
    in_bin_NF = np.eye(bins)[index_N]
    count = in_bin_NF.sum(axis=0)
    mean, share = ratio(probability @ in_bin_NF, count), ratio(outcome @ in_bin_NF, count)
    return [
        ReliabilityBin(b / bins, (b + 1) / bins, int(count[b]), float(mean[b]), float(share[b])) for b in range(bins)
    ]


def _bin_of(probability_N: Floats, bins: int) -> NDArray[np.intp]:
    index_N: NDArray[np.intp] = np.clip(np.ceil(probability_N * bins) - 1, 0, bins - 1).astype(np.intp)
    return index_N


def _checked(probability_N: Sequence[float], correct_N: Sequence[float]) -> tuple[Floats, Floats]:
    probability, outcome = np.asarray(probability_N, dtype=np.float64), np.asarray(correct_N, dtype=np.float64)
    if probability.shape != outcome.shape:
        raise ValueError(f"{len(probability)} probabilities for {len(outcome)} outcomes")
    if probability.size and not (probability.min() >= 0 and probability.max() <= 1 + 1e-6):
        raise ValueError(f"probabilities must lie in [0, 1], got [{probability.min()}, {probability.max()}]")
    return np.minimum(probability, 1.0), outcome
