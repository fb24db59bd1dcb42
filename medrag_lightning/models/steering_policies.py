"""What each steering policy does to the attention logits of a few rows: pure functions of tensors, tested by hand.

Logits are raw (scaled query-key products, no mask in them): the mask comes after, so that a hidden token stays hidden. Suffixes
here: B prompts, H heads, R steered rows, S columns, K candidates, T tokens of a prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medrag_lightning.batches import SteeringPolicy


def document_strength(score_PK: Tensor, shown_PK: Tensor) -> Tensor:
    """lambda_k = (score_k - min) / (max - min) over the candidates of a prompt that are shown: float (P, K) in [0, 1].

    The strength of MR-RAG's steering (IFA). 0 throughout where all shown scores are equal, or one candidate is shown: the
    formula would be 0 / 0. Differentiable in the scores; 0 for candidates that are not shown.
    """
    limits = torch.finfo(score_PK.dtype)
    score_PK = score_PK.masked_fill(~shown_PK, 0.0)
    low_P1 = score_PK.masked_fill(~shown_PK, limits.max).amin(1, keepdim=True)
    high_P1 = score_PK.masked_fill(~shown_PK, limits.min).amax(1, keepdim=True)
    differ_P1 = high_P1 > low_P1
    span_P1 = torch.where(differ_P1, high_P1 - low_P1, 1.0)
    low_P1 = torch.where(differ_P1, low_P1, 0.0)
    return ((score_PK - low_P1) / span_P1).masked_fill(~(shown_PK & differ_P1), 0.0)


def centred(strength_PK: Tensor, shown_PK: Tensor) -> Tensor:
    """The strengths minus their mean over the shown candidates of a prompt; 0 for the others."""
    count_P1 = shown_PK.sum(1, keepdim=True).clamp_min(1)
    mean_P1 = strength_PK.masked_fill(~shown_PK, 0.0).sum(1, keepdim=True) / count_P1
    return (strength_PK - mean_P1).masked_fill(~shown_PK, 0.0)


def steered_logits(
    policy: SteeringPolicy, logits_BHRS: Tensor, visible_BRS: Tensor, weight_BRS: Tensor, source_BRS: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits and visible columns after steering.

    Args:
        policy: see `SteeringPolicy`.
        logits_BHRS: raw logits.
        visible_BRS: bool, the columns that a row may see.
        weight_BRS: what |logit| is multiplied with (document_prior: what is added); 0 where nothing is to change. Not read by
            `pasta` and `knockout`.
        source_BRS: bool: all tokens of documents (mass_preserving, document_prior), the best document (pasta), what is blocked
            (knockout).
        gain: for `pasta`, (H,): what attention on all but `source` is multiplied with in each head, before it is normalised.

    Returns:
        Logits, as changed, and ``visible``, for `knockout` without what is blocked.
    """
    if policy == "knockout":
        return logits_BHRS, visible_BRS & ~source_BRS
    if policy == "pasta":
        # log(gain) less on the source is log(gain) more on the rest: a softmax knows differences only.
        return logits_BHRS - source_BRS[:, None] * gain.log()[:, None, None], visible_BRS
    unit_BHRS = torch.ones_like(logits_BHRS) if policy == "document_prior" else logits_BHRS.abs()
    steered_BHRS = logits_BHRS + weight_BRS[:, None] * unit_BHRS
    if policy in ("mass_preserving", "document_prior"):
        inside_BRS = visible_BRS & source_BRS
        moved_BHR1 = _log_mass(logits_BHRS, inside_BRS) - _log_mass(steered_BHRS, inside_BRS)
        return torch.where(source_BRS[:, None], steered_BHRS + moved_BHR1, logits_BHRS), visible_BRS
    return steered_BHRS, visible_BRS


def attention_weights(logits_BHRS: Tensor, visible_BRS: Tensor) -> Tensor:
    """Softmax over the visible columns; exactly 0 on the others, and never NaN."""
    return logits_BHRS.masked_fill(~visible_BRS[:, None], torch.finfo(logits_BHRS.dtype).min).softmax(-1)


def _log_mass(logits_BHRS: Tensor, inside_BRS: Tensor) -> Tensor:
    """log sum exp over the columns inside, (B, H, R, 1); 0 where there is none."""
    inside_B1RS = inside_BRS[:, None]
    some_B1R1 = inside_B1RS.any(-1, keepdim=True)
    sum_BHR1 = logits_BHRS.masked_fill(~inside_B1RS, torch.finfo(logits_BHRS.dtype).min).logsumexp(-1, keepdim=True)
    return torch.where(some_B1R1, sum_BHR1, 0.0)
