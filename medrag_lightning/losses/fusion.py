"""What teaches the weights of several similarities: a frozen reader's confidence in each candidate.

Source: MR-RAG (Li et al., CVPR 2026), MCR: InfoNCE with the candidate under which the reader is most confident of the gold
answer as positive and the m least confident ones as negatives. The other variants are ours: they use the confidence itself, not
its order alone. Where many candidates are equally good, which of them happens to come first teaches noise: `marginal` knows no
such thing.

Every loss gives a value for each query, (B,), and which queries count; `mean_counted` is the reduction of all of them. What
stands in padding never counts, and the confidence gets no gradient.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from medrag_lightning.losses.distillation import mixture_nll, retriever_logp, teacher_logq

FusionLoss = Literal["hard", "listwise", "kl", "marginal"]
"""`hard`: `info_nce` (published). `listwise`: `listwise`. `kl`: `posterior_kl`. `marginal`: `marginal`."""


def confidence_labels(
    log_confidence_BK: Tensor, rank_BK: Tensor, valid_BK: Tensor, negatives: int
) -> tuple[Tensor, Tensor]:
    """The positive and the negatives of each query, bool (B, K) each (MR-RAG, D_train).

    The positive is the candidate of rank 0, the negatives are the last `negatives` by rank, less those that are as good as the
    positive: with equal confidence there is nothing to prefer.

    Args:
        log_confidence_BK: the reader's confidence in nats.
        rank_BK: place of each candidate by confidence, 0 the best.
        valid_BK: True on real candidates.
        negatives: m.
    """
    positive_BK = (rank_BK == 0) & valid_BK
    counts_B1 = valid_BK.sum(1, keepdim=True)
    best_B1 = log_confidence_BK.masked_fill(~positive_BK, -torch.inf).amax(1, keepdim=True)
    last_BK = valid_BK & (rank_BK >= counts_B1 - negatives)
    return positive_BK, last_BK & (log_confidence_BK < best_B1)


def info_nce(score_BK: Tensor, positive_BK: Tensor, negative_BK: Tensor, tau: Tensor | float) -> tuple[Tensor, Tensor]:
    """-log[e^{s+/tau} / (e^{s+/tau} + sum_j e^{s-_j/tau})] of each query, in nats (MR-RAG, MCR).

    Perfect value 0, in the limit of a positive far above every negative; log(1 + m) where all scores are equal. Gradient by
    s+: ``(p+ - 1) / tau``; by a negative: ``p_j / tau``.

    Args:
        score_BK: f(q, d).
        positive_BK: True on the one positive.
        negative_BK: True on the negatives; all other candidates have no part.
        tau: divides scores.

    Returns:
        float32 (B,), 0 where the query does not count, and bool (B,): whether it has a positive and a negative.
    """
    counts_B = positive_BK.any(1) & negative_BK.any(1)
    logit_BK = score_BK.float() / tau
    shown_BK = logit_BK.masked_fill(~(positive_BK | negative_BK), -torch.inf).masked_fill(~counts_B[:, None], 0.0)
    nll_B = shown_BK.logsumexp(1) - logit_BK.masked_fill(~positive_BK, 0.0).sum(1)
    return nll_B.masked_fill(~counts_B, 0.0), counts_B


def listwise(
    score_BK: Tensor, log_confidence_BK: Tensor, valid_BK: Tensor, tau: Tensor | float, t_confidence: float
) -> tuple[Tensor, Tensor]:
    """-sum_k q_k log p_k of each query, in nats: ListNet's top-one cross-entropy (Cao et al. 2007).

    p = softmax(s / tau), q = softmax(c / t_confidence) with the confidence c itself, a probability. Perfect value: the entropy
    of q, at p = q. Gradient by s_k: ``(p_k - q_k) / tau``.

    Args, returns: as `info_nce`; a query with at least two candidates counts.
    """
    target_BK = retriever_logp(log_confidence_BK.detach().exp(), valid_BK, t_confidence)
    return _cross_entropy(target_BK, retriever_logp(score_BK / tau, valid_BK, 1.0), valid_BK)


def posterior_kl(
    score_BK: Tensor, log_confidence_BK: Tensor, valid_BK: Tensor, tau: Tensor | float, t_confidence: float
) -> tuple[Tensor, Tensor]:
    """KL(q || p) of each query, in nats, with the reader's posterior q_k = c_k^(1/T) / sum_j c_j^(1/T), T = t_confidence.

    It differs from `listwise` in the target alone: there the softmax of a probability, here the probabilities' own shares.
    Perfect value 0, at p = q. Gradient by s_k: ``(p_k - q_k) / tau``.

    Args, returns: as `listwise`.
    """
    target_BK = teacher_logq(log_confidence_BK, None, valid_BK, t_confidence)
    cross_B, counts_B = _cross_entropy(target_BK, retriever_logp(score_BK / tau, valid_BK, 1.0), valid_BK)
    entropy_B, _ = _cross_entropy(target_BK, target_BK, valid_BK)
    return cross_B - entropy_B, counts_B


def marginal(
    score_BK: Tensor, log_confidence_BK: Tensor, valid_BK: Tensor, tau: Tensor | float
) -> tuple[Tensor, Tensor]:
    """-log sum_k p_k c_k of each query, in nats: the gold answer's likelihood when candidates are read one by one (EMDR2).

    p = softmax(s / tau); c is the reader's confidence. Perfect value ``-log max_k c_k``, with all of p on the best candidates;
    which of equally good ones it takes makes no difference. Gradient by s_k: ``(p_k - p_k c_k / sum_j p_j c_j) / tau``.

    Args, returns: as `info_nce`; a query with at least two candidates counts.
    """
    counts_B = valid_BK.sum(1) >= 2
    nll_B = mixture_nll(retriever_logp(score_BK / tau, valid_BK, 1.0), log_confidence_BK, valid_BK)
    return nll_B.masked_fill(~counts_B, 0.0), counts_B


def right_candidates(logw_BK: Tensor, right_BK: Tensor, valid_BK: Tensor) -> tuple[Tensor, Tensor]:
    """-sum_k t_k log w_k of each query, in nats: cross-entropy with equal shares t of the candidates that are right alone.

    Perfect value: log of the number of right candidates, with equal weights on them and none on the others. Gradient by the
    logit of candidate k (w a softmax): ``w_k - t_k``.

    Args:
        logw_BK: log-weights, normalised over the real candidates; -inf on padding.
        right_BK: True on candidates with which the reader is right.
        valid_BK: True on real candidates.

    Returns:
        float32 (B,), 0 where the query does not count, and bool (B,): whether some candidates are right and some are wrong.
    """
    right_BK = right_BK & valid_BK
    counts_B = right_BK.any(1) & (valid_BK & ~right_BK).any(1)
    share_BK = right_BK.float() / right_BK.sum(1, keepdim=True).clamp(min=1)
    value_B = -(share_BK * logw_BK.float().masked_fill(~right_BK, 0.0)).sum(1)
    return value_B.masked_fill(~counts_B, 0.0), counts_B


def mean_counted(value_B: Tensor, counts_B: Tensor) -> Tensor:
    """Mean over the queries that count; 0, with a zero gradient, where none does."""
    return value_B.masked_fill(~counts_B, 0.0).sum() / counts_B.sum().clamp(min=1)


def _cross_entropy(target_BK: Tensor, logp_BK: Tensor, valid_BK: Tensor) -> tuple[Tensor, Tensor]:
    counts_B = valid_BK.sum(1) >= 2
    share_BK = target_BK.exp().masked_fill(~valid_BK, 0.0)
    value_B = -(share_BK * logp_BK.masked_fill(~valid_BK, 0.0)).sum(1)
    return value_B.masked_fill(~counts_B, 0.0), counts_B
