"""Critical layers: where blocked attention costs the right answer most, as curves over the layers, and what is chosen.

Attention from some tokens to others (a *direction*) is blocked in a window of decoder layers, the window slides over the
reader, and the relative change of the right answer's probability is recorded, over questions that the reader answers rightly
when nothing is blocked (Zhang et al., CVPR 2025, arXiv 2411.18620; MR-RAG steers the layers so found, and leaves the choice to
the hand). The rule here: a layer is critical if the window centred at it loses at least half of what the worst window loses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medrag_lightning.artifacts import read_json
from medrag_lightning.metrics.bootstrap import Bootstrap, Floats, Metric, weighted_mean

SCHEMA = 1
WIDEST = 9  # layers, as published


@dataclass(frozen=True, slots=True)
class Knockout:
    """What blocked attention did to one question that was answered rightly.

    Attributes:
        query_id: which question.
        cluster: what it is resampled with (its patient).
        first_token: by direction and for each window, the relative change of the probability of the right answer's first
            token: (blocked - free) / free, so -1 is all of it lost and 0 none.
        choice: the same for the right choice's share among the choices; NaN for an open question.
    """

    query_id: str
    cluster: str
    first_token: Mapping[str, tuple[float, ...]]
    choice: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class LayerRule:
    """When a layer is critical.

    Args:
        keep_share: of the worst window's drop; a layer is kept if the window centred at it drops at least so much.
        least_drop: if the worst window drops less than this (a relative change), the curve is flat and no layer is kept.
        bootstrap: of the intervals. A drop must also be real with its confidence (`chance_of_drop`): the worst of many
            windows drops by chance alone.
    """

    keep_share: float = 0.5
    least_drop: float = 0.01
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    def __post_init__(self) -> None:
        if not 0 < self.keep_share <= 1 or not 0 <= self.least_drop < 1:
            raise ValueError(
                f"keep_share must lie in (0, 1] and least_drop in [0, 1), got {self.keep_share} and {self.least_drop}"
            )
        if not self.bootstrap.resamples:
            raise ValueError("critical layers are chosen by their intervals: resamples must be at least 100, got 0")


@dataclass(frozen=True, slots=True)
class LayerCurve:
    """The mean relative changes of one direction, a number for each centre of the window, and the layers chosen.

    `reason` says why none was chosen; empty otherwise.
    """

    direction: str
    first_token: tuple[Metric, ...]
    choice: tuple[Metric, ...]
    layers: tuple[int, ...]
    reason: str = ""


def default_window(layer_count: int) -> int:
    """A quarter of the layers, made odd, and 9 at most: 9 of 32 as published, 1 of 3."""
    return min(WIDEST, max(1, layer_count // 4 | 1))


def windows(layer_count: int, window: int) -> list[list[int]]:
    """For each layer the window centred at it, clipped at the borders.

    Raises:
        ValueError: the window is even, or so wide that every one of them would hold the middle layer.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be an odd number of layers, so that it has a centre, got {window}")
    if window > max(1, layer_count // 2):
        raise ValueError(
            f"a window of {window} layers cannot tell {layer_count} layers apart; give an odd one of at most "
            f"{max(1, layer_count // 2)}, or leave it out for {default_window(layer_count)}"
        )
    half = window // 2
    return [list(range(max(0, at - half), min(layer_count, at + half + 1))) for at in range(layer_count)]


def layer_curve(direction: str, samples: Sequence[Knockout], rule: LayerRule) -> LayerCurve:
    """The curve of a direction over at least one sample, and the layers that `rule` chooses by the first token."""
    clusters = [sample.cluster for sample in samples]
    first_NW = np.array([sample.first_token[direction] for sample in samples], dtype=np.float64)
    choice_NW = np.array([sample.choice[direction] for sample in samples], dtype=np.float64)
    first = tuple(rule.bootstrap.metric(weighted_mean(column), clusters) for column in first_NW.T)
    closed = np.flatnonzero(~np.isnan(choice_NW).any(axis=1)).tolist()
    of_closed = [clusters[n] for n in closed]
    choice = tuple(rule.bootstrap.metric(weighted_mean(column), of_closed) for column in choice_NW[closed].T)
    change_W = first_NW.mean(axis=0)
    worst = int(change_W.argmin())
    reason = _flat(-change_W[worst], chance_of_drop(first_NW, clusters, rule.bootstrap), rule)
    kept = () if reason else tuple(np.flatnonzero(change_W <= rule.keep_share * change_W[worst]).tolist())
    return LayerCurve(direction, first, choice, kept, reason)


def chance_of_drop(change_NW: Floats, clusters_N: Sequence[str], settings: Bootstrap) -> float:
    """How often a drop as deep as the deepest of W windows would be seen if blocking changed nothing (one-sided p-value).

    Sign flips of whole clusters, the statistic being the largest drop over the windows in units of its standard error: right
    for any number of windows, however they hang together (Westfall and Young 1993). One cluster alone can prove nothing.
    """
    names, cluster_of_N = np.unique(np.asarray(clusters_N, dtype=str), return_inverse=True)
    sums_GW = np.zeros((len(names), change_NW.shape[1]))
    np.add.at(sums_GW, cluster_of_N, change_NW)
    scale_W = np.sqrt((sums_GW**2).sum(axis=0))
    unit_GW = np.divide(sums_GW, scale_W, out=np.zeros_like(sums_GW), where=scale_W > 0)
    rng = np.random.default_rng(settings.seed)
    signs_FG = rng.choice([-1.0, 1.0], size=(settings.resamples, len(names)))
    deepest_F = (-(signs_FG @ unit_GW)).max(axis=1)
    observed = (-unit_GW.sum(axis=0)).max()
    return float((1 + (deepest_F >= observed - 1e-12).sum()) / (1 + settings.resamples))


def _flat(drop: float, chance: float, rule: LayerRule) -> str:
    """Why the worst window's drop is none; empty if it is one."""
    if drop <= 0:
        return "no window lowers the right answer's probability"
    if drop < rule.least_drop:
        return f"flat: the worst window lowers the right answer's probability by {drop:.2%}, less than {rule.least_drop:.2%}"
    if chance > 1 - rule.bootstrap.confidence:
        return f"the worst window's drop of {drop:.1%} may be chance (p = {chance:.2g} over all windows)"
    return ""


@dataclass(frozen=True, slots=True)
class CriticalLayers:
    """All curves of a reader, and what they depend on.

    Attributes:
        identity: by name; `reader` is its fingerprint.
        layer_windows: the layers of each window, by its centre.
        curves: one a direction.
        samples, patients: how many questions were answered rightly and measured, and of how many clusters.
        asked: how many questions were asked.
        rule: how layers were chosen.
    """

    identity: Mapping[str, Any]
    layer_windows: Sequence[Sequence[int]]
    curves: Sequence[LayerCurve]
    samples: int
    patients: int
    asked: int
    rule: LayerRule

    def as_json(self) -> dict[str, Any]:
        """Plain JSON, which `layers_of` reads; without ids of questions and patients."""
        b = self.rule.bootstrap
        return {
            "schema": SCHEMA,
            **self.identity,
            "questions_asked": self.asked,
            "samples": self.samples,
            "patients": self.patients,
            "rule": {"keep_share": self.rule.keep_share, "least_drop": self.rule.least_drop},
            "intervals": {"confidence": b.confidence, "resamples": b.resamples, "seed": b.seed, "resampled_by": "patient"},
            "layers": {curve.direction: list(curve.layers) for curve in self.curves},
            "none_because": {curve.direction: curve.reason for curve in self.curves if curve.reason},
            "curves": {curve.direction: self._rows(curve) for curve in self.curves},
        }

    def _rows(self, curve: LayerCurve) -> list[dict[str, Any]]:
        rows = zip(self.layer_windows, curve.first_token, curve.choice, strict=True)
        return [
            {"centre": at, "window": list(layers), "first_token": first.as_json(), "choice": choice.as_json()}
            for at, (layers, first, choice) in enumerate(rows)
        ]


def layers_of(path: str | Path, reader: str, direction: str = "evidence_to_question") -> list[int]:
    """The critical layers of a direction in a ``critical_layers.json``, for the reader with fingerprint `reader`.

    Raises:
        ValueError: the file is missing or something else, was made with another reader, or found no critical layer.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; `predict` of stage critical_layers writes it")
    found = read_json(path)
    if not isinstance(found, dict) or found.get("schema") != SCHEMA or "layers" not in found:
        raise ValueError(f"{path} is not a critical_layers.json of schema {SCHEMA}; make it with stage critical_layers")
    if found.get("reader") != reader:
        raise ValueError(
            f"{path} holds the critical layers of another reader ({str(found.get('reader'))[:12]}, this one is {reader[:12]}): "
            "run stage critical_layers with this reader's checkpoint"
        )
    if direction not in found["layers"]:
        raise ValueError(f"{path}: direction {direction!r} was not measured, only {', '.join(found['layers'])}")
    layers: list[int] = found["layers"][direction]
    if not layers:
        because = found.get("none_because", {}).get(direction, "")
        raise ValueError(
            f"{path}: this reader has no critical layers, {direction.replace('_', ' ')} ({because}): nothing to steer. "
            "Leave steering out, or name its layers by hand"
        )
    return layers
