"""From retrieval scores to the weights of candidates. A *head* is a channel: candidates found by the same comparison.

Source: JOMED, "Fusion at inference": p_R(z_k|q) is a softmax over retrieval scores. Scores of two heads have different scales,
so they are normalised within each head first; how is a setting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from medrag_lightning.mixture.answers import Floats, log_softmax

HeadNormalisation = Literal["per_head_softmax", "divide_by_max", "joint_softmax"]
"""`per_head_softmax`: a softmax within each head, heads weighted. `divide_by_max`: each head's scores are divided by its
largest, then one softmax (JOMED's code; nearly uniform, and a negative maximum turns a head's order round). `joint_softmax`:
one softmax over all scores as they are."""


def candidate_weights(
    scores: Sequence[float],
    channels: Sequence[str],
    temperature: float,
    normalisation: HeadNormalisation = "per_head_softmax",
    head_weights: Mapping[str, float] | None = None,
) -> Floats:
    """Weights w_K that sum to 1.

    Args:
        scores: retrieval scores, higher is better.
        channels: the head that found each candidate.
        temperature: divides the scores (after `divide_by_max`) before the softmax.
        normalisation: how heads are brought together.
        head_weights: for `per_head_softmax`, the weight of each head by name, renormalised over the heads that found something;
            by default all alike. Evidence that no head found (given by hand, drawn at random) has one head of its own.

    Raises:
        ValueError: if temperature is not positive, nothing is given, or `head_weights` name some of the heads only.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if not scores or len(scores) != len(channels):
        raise ValueError(f"need one channel for each score, got {len(scores)} scores and {len(channels)} channels")
    score_K, names = np.array(scores, dtype=np.float64), np.asarray(channels)
    kinds = sorted(set(channels))
    if normalisation == "joint_softmax":
        return np.exp(log_softmax(score_K / temperature))
    if normalisation == "divide_by_max":
        for kind in kinds:
            best = score_K[names == kind].max()
            score_K[names == kind] /= best if best != 0 else 1.0  # all scores of drawn evidence are 0: they stay alike
        return np.exp(log_softmax(score_K / temperature))
    share = _shares(kinds, head_weights)
    weight_K = np.zeros(len(scores))
    for kind in kinds:
        weight_K[names == kind] = np.exp(log_softmax(score_K[names == kind] / temperature)) * share[kind]
    return weight_K


def _shares(kinds: Sequence[str], head_weights: Mapping[str, float] | None) -> dict[str, float]:
    """The weight of each head that is there; they sum to 1."""
    named = [kind for kind in kinds if head_weights is not None and kind in head_weights]
    if head_weights is None or not named:
        return dict.fromkeys(kinds, 1 / len(kinds))
    if len(named) < len(kinds):
        lacking = sorted(set(kinds) - set(named))
        raise ValueError(f"fusion.head_weights {dict(head_weights)} lack {lacking}; give a weight for each head that searches")
    total = sum(head_weights[kind] for kind in kinds)
    if total <= 0:
        raise ValueError(f"fusion.head_weights {dict(head_weights)}: all heads that found something ({kinds}) weigh 0")
    return {kind: head_weights[kind] / total for kind in kinds}
