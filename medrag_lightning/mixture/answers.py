"""Mixing what the reader says under each candidate: in probability space, or JOMED's geometric mixture of logits.

Source: JOMED Section 3 (inference) for p(a|q) = sum_k w_k p(a | z_k, q); its released code instead adds weighted logits, which
is a geometric mixture: a candidate that finds an answer impossible vetoes it there, and is merely outvoted here.
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


def mix_closed(logp_KC: Floats, weight_K: Floats) -> Floats:
    """Log-probabilities logp_C of the closed answers: each candidate's row is normalised over the answers, then mixed."""
    normal_KC = log_softmax(np.asarray(logp_KC, dtype=np.float64), axis=1)
    return _log_mean(normal_KC, weight_K)


def geometric_closed(logp_KC: Floats, weight_K: Floats) -> Floats:
    """Log-probabilities logp_C of the geometric mixture: log_softmax_c(sum_k w_k logp_kc); row constants do not matter."""
    return log_softmax(np.asarray(weight_K, dtype=np.float64) @ np.asarray(logp_KC, dtype=np.float64))


def mix_sequence(logp_K: Sequence[float] | Floats, weight_K: Floats) -> float:
    """Log-probability of one text under the mixture, from its log-probability under each candidate: log sum_k w_k p_k."""
    return float(_log_mean(np.asarray(logp_K, dtype=np.float64)[:, None], weight_K)[0])


def vote_open(answers: Sequence[str], weight_K: Floats) -> str:
    """The free-text answer with the most weight behind it (equal after lower-casing and trimming); the earlier wins a tie."""
    total: dict[str, float] = {}
    for answer, weight in zip(answers, weight_K, strict=True):
        key = " ".join(answer.lower().split())
        total[key] = total.get(key, 0.0) + float(weight)
    best = max(total.values())
    return next(a for a in answers if total[" ".join(a.lower().split())] >= best - 1e-12)


def fuse_steps(logit_KLV: Floats, weight_K: Floats, end_id: int, include_ended: bool = False) -> list[int]:
    """Token ids from the weighted sum of the logits of K sequences that were generated greedily, each on its own.

    Args:
        logit_KLV: raw logits of each candidate's sequence at each of L positions.
        weight_K: weights that sum to 1.
        end_id: the end-of-turn token; the ids stop before it.
        include_ended: JOMED's code, where positions after a candidate's own end still enter the sum. By default a candidate
            that has ended is left out and the weights of the others are renormalised.

    Raises:
        ValueError: the shapes do not fit.
    """
    logit_KLV, weight_K = np.asarray(logit_KLV, dtype=np.float64), np.asarray(weight_K, dtype=np.float64)
    if logit_KLV.ndim != 3 or weight_K.shape != logit_KLV.shape[:1]:
        raise ValueError(f"need logits (K, L, V) and weights (K,), got {logit_KLV.shape} and {weight_K.shape}")
    own_KL = logit_KLV.argmax(axis=2)
    ended_KL = np.cumsum(own_KL == end_id, axis=1) - (own_KL == end_id) > 0
    ids: list[int] = []
    for step in range(logit_KLV.shape[1]):
        share_K = weight_K if include_ended else weight_K * ~ended_KL[:, step]
        if not share_K.any():
            break
        token = int((share_K @ logit_KLV[:, step]).argmax())  # dividing by the sum of the shares does not move the argmax
        if token == end_id:
            break
        ids.append(token)
    return ids


def _log_mean(logp_KC: Floats, weight_K: Floats) -> Floats:
    """log sum_k w_k exp(logp_kc), stable; a candidate of weight 0 does not count."""
    with np.errstate(divide="ignore"):
        joint_KC = logp_KC + np.log(np.asarray(weight_K, dtype=np.float64))[:, None]
    top_C = joint_KC.max(axis=0)
    result: Floats = top_C + np.log(np.exp(joint_KC - top_C).sum(axis=0))
    return result
