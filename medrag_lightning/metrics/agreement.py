"""How far a judge's verdicts are those of known labels: accuracy, F1 of "yes", Cohen's kappa (HeteroRAG: 0.84 and 0.87)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medrag_lightning.metrics.bootstrap import Bootstrap, Floats, Metric, Statistic, ratio, weighted_mean


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two say yes and no to the same items.

    Attributes:
        accuracy: share of the same verdicts.
        f1: 2 both yes / (yes of the one + yes of the other).
        kappa: (accuracy - by chance) / (1 - by chance), by chance at the two shares of yes; NaN where both say but one thing.
        always_no: accuracy of a judge that never says yes.
    """

    accuracy: Metric
    f1: Metric
    kappa: Metric
    always_no: Metric

    def as_json(self) -> dict[str, Any]:
        """Plain JSON; NaN becomes null."""
        return {name: getattr(self, name).as_json() for name in ("accuracy", "f1", "kappa", "always_no")}


def agreement(
    truth: Sequence[bool], said: Sequence[bool], clusters: Sequence[str], bootstrap: Bootstrap | None = None
) -> Agreement:
    """Agreement over N items, with intervals; items of one cluster (a patient) are drawn together."""
    if not len(truth) == len(said) == len(clusters):
        raise ValueError(f"{len(truth)} labels, {len(said)} verdicts and {len(clusters)} clusters")
    settings = bootstrap or Bootstrap()
    truth_N, said_N = np.asarray(truth, np.float64), np.asarray(said, np.float64)
    same_N, both_N = (truth_N == said_N).astype(np.float64), truth_N * said_N

    def f1(weights_FN: Floats) -> Floats:
        return ratio(2 * (weights_FN @ both_N), weights_FN @ (truth_N + said_N))

    statistics: list[Statistic] = [weighted_mean(same_N), f1, _kappa(truth_N, said_N, same_N), weighted_mean(1 - truth_N)]
    return Agreement(*(settings.metric(statistic, clusters) for statistic in statistics))


def _kappa(truth_N: Floats, said_N: Floats, same_N: Floats) -> Statistic:
    def statistic(weights_FN: Floats) -> Floats:
        total_F = weights_FN.sum(axis=1)
        truth_F, said_F, same_F = (ratio(weights_FN @ column, total_F) for column in (truth_N, said_N, same_N))
        chance_F = truth_F * said_F + (1 - truth_F) * (1 - said_F)
        return ratio(same_F - chance_F, 1 - chance_F)

    return statistic
