"""The choice with a guarantee: every policy of a grid is tested, and one is taken of those that are shown to keep the risk.

Learn-then-Test (Angelopoulos et al. 2021): a policy's hypothesis is "its risk is above alpha". Those that are rejected hold
together with probability 1 - delta, so that one of them may be chosen by any rule, also by looking at the same data.

The risk of a policy that abstains is that of the questions it answers: E[loss x answered] / E[answered]. It is at most alpha
where E[loss x answered + alpha x (1 - answered)] is, a mean of numbers in [0, 1]; so units of several questions (patients) are
tested by their means. Where each unit is one question, the answered ones are tested alone, which is a little stronger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.artifacts import counter_rng
from medrag_lightning.calibration.outcomes import Floats, Outcomes, Policy, grid_of, mean_of_units, places_of
from medrag_lightning.calibration.p_values import hoeffding_bentkus, upper_bound
from medrag_lightning.calibration.procedures import bonferroni, fixed_sequence, graphical, neighbours

Procedure = Literal["bonferroni", "fixed_sequence", "graphical", "learned_sequence"]
Objective = Literal["risk", "coverage", "fewest"]
Fallback = Literal["least_risk", "abstain"]


@dataclass(frozen=True)
class CalibrationSettings:
    """What is to hold, and among which policies.

    Args:
        alpha: the risk that must not be exceeded, in (0, 1).
        delta: probability that the guarantee fails, over the draw of the calibration set, in (0, 1).
        ks: numbers of candidates; 0 for no evidence.
        thresholds: probabilities below which an answer is abstained from; 0 never abstains.
        without_from: probabilities from which an answer without evidence is given at once; null for never.
        procedure: ``bonferroni``: delta is divided among all. ``fixed_sequence``: in the order given (ks outermost, then
            without_from, then thresholds), until the first fails. ``graphical``: the share of one that holds goes to its
            neighbours on the grid. ``learned_sequence``: a part of the units says in which order the others test.
        objective: which one is taken of those that hold: least ``risk``, most ``coverage``, or ``fewest`` candidates; null:
            coverage where something abstains, else risk (as RULE does).
        fallback: where none holds: ``least_risk``: the policy that answers everything with the least risk, without a guarantee;
            or ``abstain`` from everything.
        ordering_share: of the units that ``learned_sequence`` spends on the order.
        seed: of that draw.
    """

    alpha: float
    delta: float
    ks: tuple[int, ...]
    thresholds: tuple[float, ...] = (0.0,)
    without_from: tuple[float | None, ...] = (None,)
    procedure: Procedure = "bonferroni"
    objective: Objective | None = None
    fallback: Fallback = "least_risk"
    ordering_share: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("alpha", "delta", "ordering_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in (0, 1), got {getattr(self, name)}")
        for name in ("ks", "thresholds", "without_from"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} must hold at least one value, and each once; got {list(values)}")
        if not self.policies():
            raise ValueError("without_from needs a k of 1 or more, and ks holds none; add one, or leave without_from out")

    def policies(self) -> list[Policy]:
        """All that are tested."""
        return grid_of(self.ks, self.thresholds, self.without_from)

    def needed_ks(self) -> tuple[int, ...]:
        """The numbers of candidates whose outcomes are needed."""
        bare = any(one is not None for one in self.without_from) and 0 not in self.ks
        return (0, *self.ks) if bare else self.ks


@dataclass(frozen=True, slots=True)
class Tested:
    """A policy on the calibration set.

    Attributes:
        policy: what was tested.
        risk: of the answered, each unit counting as much as another; NaN where nothing is answered.
        coverage: share that is answered, of units.
        searched: share that evidence is searched for.
        answered: number of questions answered.
        p_value: of "the risk is above alpha".
        bound: upper bound of the risk; those of all policies hold together with probability 1 - delta (Bonferroni).
        holds: whether the procedure shows the risk to be at most alpha.
    """

    policy: Policy
    risk: float
    coverage: float
    searched: float
    answered: int
    p_value: float
    bound: float
    holds: bool


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What came out. `chosen` is None where everything is abstained from; `guaranteed`: whether a policy holds.

    `units` are those that were tested, of `questions` questions; `ordering_units` were spent on the order.
    """

    settings: CalibrationSettings
    chosen: Tested | None
    guaranteed: bool
    tested: tuple[Tested, ...]
    units: int
    questions: int
    ordering_units: int


def calibrate(outcomes: Outcomes, settings: CalibrationSettings) -> Calibrated:
    """Tests every policy and takes one.

    Raises:
        ValueError: outcomes of a number of candidates are missing, or too few units are there to be parted.
    """
    if lacking := [k for k in settings.needed_ks() if k not in outcomes.ks]:
        raise ValueError(f"no outcomes with {lacking} candidates; known are {list(outcomes.ks)}")
    policies, ordering = settings.policies(), 0
    order = list(range(len(policies)))
    if settings.procedure == "learned_sequence":
        first, outcomes = _parted(outcomes, settings)
        ordering = len(set(first.units))
        order = np.argsort([one.p_value(settings.alpha) for one in _sums(first, policies)], kind="stable").tolist()
    sums = _sums(outcomes, policies)
    p_M = np.array([one.p_value(settings.alpha) for one in sums])
    holds_M, level = _held(p_M, policies, settings, order), settings.delta / len(policies)
    rows = [
        Tested(
            policy, one.risk, one.coverage, one.searched, one.answered, float(p), upper_bound(one.p_value, level), bool(holds)
        )
        for policy, one, p, holds in zip(policies, sums, p_M, holds_M, strict=True)
    ]
    return Calibrated(
        settings, _taken(rows, settings), bool(holds_M.any()), tuple(rows), sums[0].units, len(outcomes.units), ordering
    )


def true_risk(outcomes: Outcomes, policy: Policy) -> float:
    """The risk among the answered, each unit counting as much as another; 0 where nothing is answered (nothing is lost)."""
    (one,) = _sums(outcomes, [policy])
    return 0.0 if math.isnan(one.risk) else one.risk


@dataclass(frozen=True, slots=True)
class _Sums:
    """A policy's sums over units (`lost` and `covered`: of their means); how many questions are answered, with what loss."""

    lost: float
    covered: float
    units: int
    questions: int
    answered: int
    loss: float
    searched: float

    @property
    def risk(self) -> float:
        return self.lost / self.covered if self.answered else math.nan

    @property
    def coverage(self) -> float:
        return self.covered / self.units

    @property
    def figures(self) -> tuple[float, float, float, int]:
        return self.risk, self.coverage, self.searched, self.answered

    def p_value(self, alpha: float) -> float:
        """Of "the risk is above alpha"."""
        if not self.answered or not 0 < alpha < 1:
            return 1.0
        if self.units == self.questions:
            return hoeffding_bentkus(self.loss, self.answered, alpha)
        return hoeffding_bentkus(self.lost + alpha * (self.units - self.covered), self.units, alpha)


def _sums(outcomes: Outcomes, policies: Sequence[Policy]) -> list[_Sums]:
    unit_N = np.unique(np.asarray(outcomes.units, dtype=str), return_inverse=True)[1].astype(np.int64)
    units, made = int(unit_N.max()) + 1, []
    for policy in policies:
        loss, answered = outcomes.under(policy)
        lost, searched = np.where(answered, loss, 0.0), np.full(len(unit_N), float(policy.k > 0))
        if policy.without_from is not None:
            searched[outcomes.probability_KN[outcomes.ks.index(0)] >= policy.without_from] = 0.0
        of_units = [mean_of_units(one, unit_N) for one in (lost, answered.astype(np.float64), searched)]
        total, covered, asked = (float(one.sum()) for one in of_units)
        made.append(_Sums(total, covered, units, len(unit_N), int(answered.sum()), float(lost.sum()), asked / units))
    return made


def _held(p_M: Floats, policies: Sequence[Policy], settings: CalibrationSettings, order: Sequence[int]) -> NDArray[np.bool_]:
    if settings.procedure == "bonferroni":
        return bonferroni(p_M, settings.delta)
    if settings.procedure == "graphical":
        size = len(policies)
        return graphical(p_M, settings.delta, np.full(size, 1 / size), neighbours(places_of(policies)))
    return fixed_sequence(p_M, settings.delta, order)


def _taken(rows: Sequence[Tested], settings: CalibrationSettings) -> Tested | None:
    """One of those that hold; else as the fallback says."""
    held = [row for row in rows if row.holds]
    if not held:
        if settings.fallback == "abstain":
            return None
        full = [row for row in rows if row.coverage == 1] or [row for row in rows if row.answered]
        return min(full, key=lambda row: (row.risk, row.policy.k), default=None)
    abstains = any(not row.policy.plain for row in rows)
    objective = settings.objective or ("coverage" if abstains else "risk")
    read = {id(row): row.policy.k * row.searched for row in held}
    keys = {
        "risk": lambda row: (row.risk, read[id(row)], -row.coverage),
        "coverage": lambda row: (-row.coverage, row.risk, read[id(row)]),
        "fewest": lambda row: (read[id(row)], -row.coverage, row.risk),
    }
    return min(held, key=keys[objective])


def _parted(outcomes: Outcomes, settings: CalibrationSettings) -> tuple[Outcomes, Outcomes]:
    """The units that order, and those that are tested."""
    names = dict.fromkeys(outcomes.units)
    chance = {name: counter_rng(settings.seed, "calibration order", name).random() for name in names}
    count = round(settings.ordering_share * len(names))
    if not 0 < count < len(names):
        raise ValueError(f"{len(names)} units cannot be parted: a share {settings.ordering_share:g} to order, others to test")
    last = sorted(chance.values())[count - 1]
    first = np.array([chance[name] <= last for name in outcomes.units])
    return outcomes.of(np.flatnonzero(first)), outcomes.of(np.flatnonzero(~first))
