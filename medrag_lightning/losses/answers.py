"""The loss of a reader that learns to answer."""

from __future__ import annotations

import torch
from torch import Tensor


def answer_nll(logp_RL: Tensor, mask_RL: Tensor, normaliser: Tensor | float | None = None) -> Tensor:
    """Negative log-likelihood of answer tokens, in nats: ``-sum(logp * mask) / normaliser``.

    Source: JOMED Section 3, stage 1 (L = -sum log p(answer | evidence, query), answer tokens only).

    Args:
        logp_RL: log-probability of each answer token.
        mask_RL: True on real answer tokens; others contribute nothing, whatever `logp_RL` holds there.
        normaliser: what to divide by; by default the number of real tokens (mean over tokens, as the plain causal-LM loss).

    Returns:
        A scalar; 0 when every token is certain. Without any real token it is 0 and has a zero gradient.
    """
    total = torch.where(mask_RL, logp_RL.float(), logp_RL.new_zeros((), dtype=torch.float32)).sum()
    count = mask_RL.sum().clamp(min=1) if normaliser is None else normaliser
    return -total / count
