"""Preference losses: the better answer is to gain more log-probability over a reference reader than the worse one.

Each side of a pair is read after its own input, which may differ from the other side's in image, evidence and words (HeteroRAG,
HKPT; MMed-RAG, RAG-PT): a side comes in as one number, log pi(y | x), summed over the answer's tokens, in nats. With
r = log pi(y | x) - log pi_ref(y | x), the margin of a pair is m = r_chosen - r_rejected.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

PreferenceKind = Literal["dpo", "ipo", "hinge", "robust"]
"""`dpo`: Rafailov et al. 2023, eq. 7 (conservative DPO with label smoothing). `ipo`: Azar et al. 2023, eq. 17. `hinge`: SLiC
(Zhao et al. 2023) on gains over the reference (RSO, Liu et al. 2023). `robust`: Chowdhury et al. 2024, for flipped labels."""


def preference_margin(policy_B2: Tensor, reference_B2: Tensor, tokens_B2: Tensor | None = None) -> Tensor:
    """m (B,), float32: what the chosen side gained over the reference, less what the rejected side gained, in nats.

    0 where the policy is the reference.

    Args:
        policy_B2: log-probability of the chosen and of the rejected answer, summed over tokens; gets the gradient.
        reference_B2: the same of the reference; detached.
        tokens_B2: token counts to divide each side's gain by: m is then in nats a token. None for sums, as in DPO.
    """
    gain_B2 = _wide(policy_B2) - _wide(reference_B2).detach()
    if tokens_B2 is not None:
        gain_B2 = gain_B2 / tokens_B2.clamp(min=1)
    return gain_B2[:, 0] - gain_B2[:, 1]


def preference_loss(kind: PreferenceKind, margin_B: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """The loss of each pair, (B,), float32; `weighted_mean` is the reduction. With b = beta and e = label_smoothing:

    ======== ====================================================== ============ ============================================
    kind     loss                                                   at m = 0     least value
    ======== ====================================================== ============ ============================================
    dpo      -(1 - e) log sigma(b m) - e log sigma(-b m)            ln 2         0 as m grows; with e the entropy of (e, 1 - e)
    ipo      (m - 1 / (2 b))^2                                      1 / (4 b^2)  0, at m = 1 / (2 b)
    hinge    max(0, 1 - b m)                                        1            0, from m = 1 / b on
    robust   [-(1-e) log sigma(b m) + e log sigma(-b m)] / (1-2e)   ln 2         none: it falls without end as m grows
    ======== ====================================================== ============ ============================================

    Args:
        margin_B: m, see `preference_margin`.
        beta: how closely the policy is held to the reference; the larger, the closer.
        label_smoothing: share of pairs taken to be labelled the wrong way round, in [0, 0.5); of `dpo` and `robust` alone.
    """
    logit_B = beta * _wide(margin_B)
    if kind == "ipo":
        return (_wide(margin_B) - 1 / (2 * beta)).square()
    if kind == "hinge":
        return F.relu(1 - logit_B)
    right_B, flipped_B = -F.logsigmoid(logit_B), -F.logsigmoid(-logit_B)
    if kind == "robust":
        return ((1 - label_smoothing) * right_B - label_smoothing * flipped_B) / (1 - 2 * label_smoothing)
    return (1 - label_smoothing) * right_B + label_smoothing * flipped_B


def chosen_nll(chosen_B: Tensor, tokens_B: Tensor, weight_B: Tensor, normaliser: Tensor | float | None = None) -> Tensor:
    """-sum_b w_b log pi(y_b | x_b) / sum_b w_b |y_b|: NLL of the chosen answers, nats a token; perfect value 0.

    Beside a preference loss it keeps the chosen answer's own likelihood up, which a margin alone lets fall together with that
    of the rejected one (iterative RPO, Pang et al. 2024).

    Args:
        chosen_B: log-probability of each chosen answer, summed over tokens.
        tokens_B: its tokens.
        weight_B: of each pair.
        normaliser: what to divide by instead, for a mean over several processes.
    """
    return weighted_mean(-_wide(chosen_B), weight_B, (weight_B * tokens_B).sum() if normaliser is None else normaliser)


def weighted_mean(value_B: Tensor, weight_B: Tensor, normaliser: Tensor | float | None = None) -> Tensor:
    """sum_b w_b v_b / sum_b w_b; a pair of weight 0 counts for nothing, whatever its value. 0 where no pair counts.

    Args:
        value_B: of each pair.
        weight_B: not negative.
        normaliser: what to divide by instead, for a mean over several processes.
    """
    total = (weight_B * _wide(value_B).masked_fill(weight_B == 0, 0.0)).sum()
    divisor = weight_B.sum() if normaliser is None else normaliser
    return total / max(float(divisor), torch.finfo(torch.float32).tiny)


def _wide(value: Tensor) -> Tensor:
    """float32, or float64 where it came so."""
    return value if value.dtype == torch.float64 else value.float()
