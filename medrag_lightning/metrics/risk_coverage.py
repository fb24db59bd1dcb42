"""Answering less, and being right more often: risk against coverage, and from which probability on to answer.

Source: Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks" (2017): risk and coverage; AURC as in
Geifman, Uziel and El-Yaniv (2019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.metrics.bootstrap import Floats, Statistic, ratio

ONE_SIDED_95 = 1.6448536269514722


@dataclass(frozen=True, slots=True)
class RiskCoverage:
    """What answering only from a probability on leads to; G thresholds, from the strictest to the one that answers everything.

    Attributes:
        threshold_G: answered are the questions whose top choice has at least this probability.
        coverage_G: share of the questions that are answered, in (0, 1].
        risk_G: share of wrong answers among the answered.
        n: questions.
    """

    threshold_G: Floats
    coverage_G: Floats
    risk_G: Floats
    n: int


@dataclass(frozen=True, slots=True)
class AbstentionRule:
    """Answer from `threshold` on. `coverage` and `risk` are those of the questions that it was chosen on, `answered` of `n` of
    them; `risk_bound`: the risk's one-sided 95 % upper bound (Wilson), not corrected for the choice among thresholds.
    """

    threshold: float
    coverage: float
    risk: float
    risk_bound: float
    answered: int
    n: int


def risk_coverage(probability_N: Sequence[float], correct_N: Sequence[float]) -> RiskCoverage:
    """The risk-coverage curve; equal probabilities are accepted together. ValueError without questions, or of other lengths."""
    probability, wrong, group_end = _sorted(probability_N, correct_N)
    answered_G = group_end + 1.0
    risk_G = np.cumsum(wrong)[group_end] / answered_G
    return RiskCoverage(probability[group_end], answered_G / len(probability), risk_G, len(probability))


def area_under_risk_coverage(probability_N: Sequence[float], correct_N: Sequence[float]) -> Statistic:
    """AURC: the risk among the answered, averaged over all questions as the last one accepted. Perfect: the least is not 0 but
    what the best order of the same answers gets; a random order gets the risk of answering everything.
    """
    order_N = np.argsort(-np.asarray(probability_N, dtype=np.float64), kind="stable")
    _, wrong, group_end = _sorted(probability_N, correct_N)

    def statistic(weights_FN: Floats) -> Floats:
        weight_FN = weights_FN[:, order_N]
        total_FG = np.cumsum(weight_FN, axis=1)[:, group_end]
        risk_FG = ratio(np.cumsum(weight_FN * wrong, axis=1)[:, group_end], total_FG)
        share_FG = np.diff(total_FG, axis=1, prepend=0.0)
        return ratio(np.nansum(share_FG * risk_FG, axis=1), share_FG.sum(axis=1))

    return statistic


def abstention_rule(probability_N: Sequence[float], correct_N: Sequence[float], max_risk: float) -> AbstentionRule | None:
    """The rule that answers most while the upper bound of its risk stays at or below `max_risk`; None where there is none.

    Choose it on validation questions; on test questions it says what was possible, and is not to be used.

    Raises:
        ValueError: `max_risk` is outside [0, 1).
    """
    if not 0 <= max_risk < 1:
        raise ValueError(f"max_risk must be in [0, 1), got {max_risk}")
    curve = risk_coverage(probability_N, correct_N)
    for threshold, coverage, risk in zip(curve.threshold_G[::-1], curve.coverage_G[::-1], curve.risk_G[::-1], strict=True):
        answered = round(coverage * curve.n)
        bound = wilson_upper(round(risk * answered), answered)
        if bound <= max_risk:
            return AbstentionRule(float(threshold), float(coverage), float(risk), bound, answered, curve.n)
    return None


def wilson_upper(events: int, n: int, z: float = ONE_SIDED_95) -> float:
    """Upper bound of a share of which `events` of `n` were seen (Wilson's score interval, one side); 1 for n = 0."""
    if n == 0:
        return 1.0
    share = events / n
    centre, spread = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return min(1.0, (centre + spread) / (1 + z * z / n))


def _sorted(probability_N: Sequence[float], correct_N: Sequence[float]) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Probabilities from the highest, 1 where the answer is wrong, and the last place of each run of equal probabilities."""
    probability, correct = np.asarray(probability_N, dtype=np.float64), np.asarray(correct_N, dtype=np.float64)
    if probability.shape != correct.shape or not probability.size:
        raise ValueError(f"need one outcome for each probability, and at least one; got {probability.size} and {correct.size}")
    order = np.argsort(-probability, kind="stable")
    probability, wrong = probability[order], 1.0 - correct[order]
    group_end = np.append(np.flatnonzero(np.diff(probability)), probability.size - 1)
    return probability, wrong, group_end
