"""The policy gradient that MIRA prints: R = l1 factual + l2 coherence, REINFORCE with a baseline.

Source: MIRA (arXiv 2507.07902), section 3.3: printed, and not used by its authors, who train by cross-entropy alone. Here it is
a loss over answers that were sampled; no stage uses it unless it is told to.
"""

from __future__ import annotations

import torch
from torch import Tensor


def reward(factual_BS: Tensor, coherence_BS: Tensor, factual_weight: float = 1.0, coherence_weight: float = 0.0) -> Tensor:
    """R = l1 factual + l2 coherence, float32 (B, S), without a gradient.

    Args:
        factual_BS: how true each of S sampled answers is, such as 1 where it is right.
        coherence_BS: how well it reads, or how well it agrees with its own evidence.
        factual_weight: l1.
        coherence_weight: l2.
    """
    return (factual_weight * factual_BS.float() + coherence_weight * coherence_BS.float()).detach()


def mean_of_others(reward_BS: Tensor, valid_BS: Tensor) -> Tensor:
    """The baseline of each sample: the mean reward of the question's other samples, float32 (B, S); 0 where there is none.

    It does not depend on the sample itself, so it leaves the gradient's expectation as it is.
    """
    kept_BS = reward_BS.float().masked_fill(~valid_BS, 0.0)
    others_BS = valid_BS.sum(1, keepdim=True) - 1
    return ((kept_BS.sum(1, keepdim=True) - kept_BS) / others_BS.clamp(min=1)).masked_fill(~valid_BS | (others_BS < 1), 0.0)


def reinforce(logp_BS: Tensor, reward_BS: Tensor, valid_BS: Tensor, baseline_BS: Tensor | None = None) -> Tensor:
    """-(1/N) sum over the N valid samples of (R - b) log p(answer | question, evidence): a scalar, float32.

    Its value means nothing by itself (0 for rewards that are as the baseline says); its gradient by log p of a sample is
    -(R - b) / N, whose expectation over samples is that of -E[R].

    Args:
        logp_BS: log-probability of each sampled answer in nats, the sum over its tokens, by the policy that is trained.
        reward_BS: as of `reward`; it gets no gradient.
        valid_BS: True on real samples; what stands in the others counts for nothing.
        baseline_BS: b; None for `mean_of_others`.

    Returns:
        0 (with a gradient of 0) where no sample is valid.
    """
    base_BS = mean_of_others(reward_BS, valid_BS) if baseline_BS is None else baseline_BS
    advantage_BS = (reward_BS.float() - base_BS.float()).detach().masked_fill(~valid_BS, 0.0)
    logp_BS = torch.where(valid_BS, logp_BS.float(), logp_BS.new_zeros((), dtype=torch.float32))
    return -(advantage_BS * logp_BS).sum() / valid_BS.sum().clamp(min=1)
