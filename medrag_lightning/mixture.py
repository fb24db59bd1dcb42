"""Mixing what the reader says under each candidate: p(a|q) = sum_k w_k p(a | z_k, q), in probability space.

Source: JOMED Section 3 (inference). Weights: a softmax per channel, channels weighted equally, so that the scales of two
channels are never compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def log_softmax(values: Floats, axis: int = -1) -> Floats:
    """Normalised log-probabilities, stable for large values."""
    shifted = values - values.max(axis=axis, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return result


def candidate_weights(scores: Sequence[float], channels: Sequence[str], temperature: float) -> Floats:
    """Weights w_K that sum to 1: softmax(score / temperature) within each channel, divided by the number of channels.

    Raises:
        ValueError: if temperature is not positive, or nothing is given.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if not scores or len(scores) != len(channels):
        raise ValueError(f"need one channel for each score, got {len(scores)} scores and {len(channels)} channels")
    score_K, weight_K = np.asarray(scores, dtype=np.float64), np.zeros(len(scores))
    names = np.asarray(channels)
    kinds = sorted(set(channels))
    for kind in kinds:
        weight_K[names == kind] = np.exp(log_softmax(score_K[names == kind] / temperature)) / len(kinds)
    return weight_K


def mix_closed(logp_KC: Floats, weight_K: Floats) -> Floats:
    """Log-probabilities logp_C of the closed answers: each candidate's row is normalised over the answers, then mixed."""
    normal_KC = log_softmax(np.asarray(logp_KC, dtype=np.float64), axis=1)
    with np.errstate(divide="ignore"):
        joint_KC = normal_KC + np.log(weight_K)[:, None]
    top_C = joint_KC.max(axis=0)
    result: Floats = top_C + np.log(np.exp(joint_KC - top_C).sum(axis=0))
    return result


def vote_open(answers: Sequence[str], weight_K: Floats) -> str:
    """The free-text answer with the most weight behind it (equal after lower-casing and trimming); the earlier wins a tie."""
    total: dict[str, float] = {}
    for answer, weight in zip(answers, weight_K, strict=True):
        key = " ".join(answer.lower().split())
        total[key] = total.get(key, 0.0) + float(weight)
    best = max(total.values())
    return next(a for a in answers if total[" ".join(a.lower().split())] >= best - 1e-12)
