"""What a reader lost and how sure it was with each number of candidates, and what a policy makes of that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Policy:
    """How a question is answered: without evidence, with k candidates, or not at all.

    Attributes:
        k: how many candidates are read; 0 for none.
        threshold: an answer of a smaller probability is abstained from; 0 never abstains.
        without_from: an answer without evidence of this probability or more is given without searching; None always searches.
    """

    k: int
    threshold: float = 0.0
    without_from: float | None = None

    def __post_init__(self) -> None:
        if self.k < 0 or not 0 <= self.threshold <= 1:
            raise ValueError(f"a policy needs k from 0 up and a threshold in [0, 1], got {self.k} and {self.threshold}")
        if self.without_from is not None and not (self.k > 0 and 0 <= self.without_from <= 1):
            raise ValueError(f"without_from {self.without_from} needs k of 1 or more, and to be a probability")

    @property
    def plain(self) -> bool:
        """Whether it is a number of candidates and nothing else."""
        return self.threshold == 0 and self.without_from is None

    def __str__(self) -> str:
        """In words."""
        told = [] if self.without_from is None else [f"without evidence from probability {self.without_from:g}"]
        told.append("without evidence" if self.k == 0 else f"with {self.k} candidate{'s' * (self.k > 1)}")
        return "; else ".join(told) + (f"; abstains below {self.threshold:g}" if self.threshold else "")


@dataclass(frozen=True, slots=True)
class Outcomes:
    """N calibration questions, each answered with each of K numbers of candidates.

    Attributes:
        ks: the numbers, different from each other; 0 for no evidence.
        loss_KN: in [0, 1].
        probability_KN: of the answer that was given; NaN where there is none (free text), which no threshold applies to.
        units: what is independent: the patient of each question; questions of one unit are averaged.
    """

    ks: tuple[int, ...]
    loss_KN: Floats
    probability_KN: Floats
    units: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = (len(self.ks), len(self.units))
        if self.loss_KN.shape != shape or self.probability_KN.shape != shape or not all(shape):
            raise ValueError(f"need a loss and a probability for each of {shape} (numbers, questions), and at least one")
        if len(set(self.ks)) != len(self.ks) or min(self.ks) < 0:
            raise ValueError(f"numbers of candidates must be different and not negative, got {list(self.ks)}")
        if not (np.isfinite(self.loss_KN).all() and self.loss_KN.min() >= 0 and self.loss_KN.max() <= 1):
            raise ValueError("losses must be numbers in [0, 1]")

    def under(self, policy: Policy) -> tuple[Floats, NDArray[np.bool_]]:
        """Loss of each question's answer under a policy, and whether it is answered."""
        loss, probability = self._row(policy.k)
        if policy.without_from is not None:
            bare_loss, bare = self._row(0)
            at_once = bare >= policy.without_from  # NaN is not
            loss, answered = np.where(at_once, bare_loss, loss), at_once | ~(probability < policy.threshold)
        else:
            answered = ~(probability < policy.threshold)
        return loss, answered

    def of(self, chosen: Sequence[int] | NDArray[np.int64]) -> Outcomes:
        """Some of the questions."""
        at = np.asarray(chosen, dtype=np.int64)
        units = tuple(self.units[n] for n in at.tolist())
        return Outcomes(self.ks, self.loss_KN[:, at], self.probability_KN[:, at], units)

    def _row(self, k: int) -> tuple[Floats, Floats]:
        if k not in self.ks:
            raise ValueError(f"nothing is known of {k} candidates; known are {list(self.ks)}")
        place = self.ks.index(k)
        return self.loss_KN[place], self.probability_KN[place]


def mean_of_units(value_N: Floats, unit_N: NDArray[np.int64]) -> Floats:
    """Mean over the questions of each unit; `unit_N`: the number of each question's unit, from 0."""
    total = np.bincount(unit_N, value_N)
    return np.asarray(total / np.bincount(unit_N), dtype=np.float64)


def grid_of(ks: Sequence[int], thresholds: Sequence[float], without_from: Sequence[float | None]) -> list[Policy]:
    """All policies, numbers of candidates outermost, in the order given; k = 0 has no answer without evidence before it."""
    made = [
        Policy(k, threshold, bare) for k in ks for bare in without_from if bare is None or k > 0 for threshold in thresholds
    ]
    return list(dict.fromkeys(made)) if made else []


def places_of(policies: Sequence[Policy]) -> NDArray[np.int64]:
    """Where each policy stands on the axes k, threshold and without_from, as ranks."""
    axes = [
        [float(one.k) for one in policies],
        [one.threshold for one in policies],
        [math.inf if one.without_from is None else one.without_from for one in policies],
    ]
    return np.stack([np.unique(axis, return_inverse=True)[1] for axis in axes], axis=1).astype(np.int64)
