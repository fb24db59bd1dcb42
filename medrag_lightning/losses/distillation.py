"""What a frozen reader teaches a retriever: gold scores of candidates, the teacher's posterior, and losses against it.

Sources: JOMED (arXiv 2508.17394, Section 3, retriever loss; and the released code, which takes the softmax twice); ATLAS
(arXiv 2208.03299, Section 2.2) for perplexity distillation, EMDR2 (after Sachan et al. 2021) and leave-one-out.

All inputs may be padded, in candidates (`valid_BK`) and in closed answers (`valid_BC`): what stands there never counts. No
function passes gradient to the reader's numbers; only the retriever's scores are differentiated.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Gold = Literal["class_posterior", "class_posterior_double_softmax", "pdist", "emdr2", "loop"]
"""How a candidate is scored by the reader, in nats (g_K):

- `class_posterior`: log p(y|z_k) over the closed answers; at most 0, unbounded below.
- `class_posterior_double_softmax`: JOMED's code, log_softmax of the *probabilities* over the answers; spans at most 1 nat.
- `pdist`: log-likelihood of the gold answer a token, not normalised over answers (ATLAS perplexity distillation).
- `emdr2`: as `class_posterior`, for the loss `marginal_nll` (no teacher is made of it).
- `loop`: how unlikely the gold answer becomes without the candidate, see `leave_one_out`.
"""
Prior = Literal["current", "frozen", "none"]
"""What the teacher multiplies the reader's likelihood with: the retriever being trained (detached), the frozen one, nothing."""
Reduction = Literal["batchmean", "mean_over_BK"]
"""`batchmean`: sum over candidates, weighted mean over queries. `mean_over_BK`: the sum over candidates and queries, divided
by the number of (query, candidate) pairs (JOMED's code)."""


def answer_scores(logp_BKC: Tensor, token_count_BC: Tensor, length_normalised: bool) -> Tensor:
    """float32 (B, K, C): log-probability of each answer, summed over its tokens, or their mean."""
    score_BKC = logp_BKC.detach().float()
    return score_BKC / token_count_BC.clamp(min=1).float()[:, None, :] if length_normalised else score_BKC


def log_posterior(score_BKC: Tensor, valid_BC: Tensor) -> Tensor:
    """log p(c|z_k): log-softmax over each query's own answers, (B, K, C); -inf on padding."""
    return score_BKC.float().masked_fill(~valid_BC[:, None, :], -torch.inf).log_softmax(-1)


def gold_score(
    kind: Gold,
    logp_BKC: Tensor,
    token_count_BC: Tensor,
    gold_BC: Tensor,
    valid_BC: Tensor,
    length_normalised: bool = False,
) -> Tensor:
    """How good the reader finds candidate k for the gold answer: g_K in nats, float32 (B, K), detached.

    Args:
        kind: which score; `loop` gives the class posterior that `leave_one_out` starts from.
        logp_BKC: log-probability of each answer after each candidate, summed over its tokens.
        token_count_BC: tokens of each answer.
        gold_BC: True on the gold answers; of several gold answers the mean score is taken.
        valid_BC: True on real answers.
        length_normalised: divide each answer's log-probability by its tokens before answers are compared (JOMED's code
            compares means over tokens). `pdist` always does.
    """
    score_BKC = answer_scores(logp_BKC, token_count_BC, length_normalised or kind == "pdist")
    if kind == "pdist":
        each_BKC = score_BKC
    else:
        each_BKC = log_posterior(score_BKC, valid_BC)
        if kind == "class_posterior_double_softmax":
            each_BKC = log_posterior(each_BKC.exp(), valid_BC)
    chosen_BKC = each_BKC.masked_fill(~gold_BC[:, None, :], 0.0)
    return chosen_BKC.sum(-1) / gold_BC.sum(-1, keepdim=True).clamp(min=1)


def retriever_logp(score_BK: Tensor, valid_BK: Tensor, t_score: float) -> Tensor:
    """log p_R(z_k) = log_softmax_k(s_k / T_score) over real candidates, float32; -inf on padding, 0 in a row without any."""
    score_BK = (score_BK.float() / t_score).masked_fill(~valid_BK, -torch.inf)
    empty_B1 = ~valid_BK.any(1, keepdim=True)
    return score_BK.masked_fill(empty_B1, 0.0).log_softmax(-1).masked_fill(empty_B1, 0.0)


def leave_one_out(gold_BK: Tensor, weight_logp_BK: Tensor, valid_BK: Tensor) -> Tensor:
    """g_k = -log p(y | all but z_k), in nats: high where the answer is lost without the candidate (ATLAS, LOOP).

    The reader is not run again: without k the other candidates' likelihoods are mixed with their weights,
    ``p(y | all but k) = sum_{j != k} w_j exp(gold_j) / sum_{j != k} w_j``. With a single candidate g is 0.

    Args:
        gold_BK: log p(y|z_k).
        weight_logp_BK: log of the weights w.
        valid_BK: True on real candidates.
    """
    weight_BK = weight_logp_BK.detach().float().masked_fill(~valid_BK, -torch.inf)
    itself = torch.eye(gold_BK.shape[1], dtype=torch.bool, device=gold_BK.device)
    others_BKK = weight_BK[:, None, :].masked_fill(itself, -torch.inf)
    joint_BKK = (others_BKK + gold_BK.detach().float()[:, None, :]).masked_fill(others_BKK == -torch.inf, -torch.inf)
    without_BK = joint_BKK.logsumexp(-1) - others_BKK.logsumexp(-1)
    return -without_BK.masked_fill(~valid_BK | (valid_BK.sum(1, keepdim=True) < 2), 0.0)


def teacher_logq(gold_BK: Tensor, prior_logp_BK: Tensor | None, valid_BK: Tensor, t_gold: float) -> Tensor:
    """log q_k = log_softmax_k([log_softmax_k(g) + log prior_k] / T_gold), detached; without a prior the first term alone.

    At T_gold = 1 this is the posterior over candidates, q_k = prior_k e^{g_k} / sum_j prior_j e^{g_j}.
    """
    evidence_BK = retriever_logp(gold_BK.detach(), valid_BK, 1.0)
    if prior_logp_BK is not None:
        evidence_BK = evidence_BK + prior_logp_BK.detach().float()
    return retriever_logp(evidence_BK, valid_BK, t_gold)


def retriever_kl(
    logp_BK: Tensor,
    logq_BK: Tensor,
    valid_BK: Tensor,
    reduction: Reduction = "batchmean",
    weight_B: Tensor | None = None,
) -> Tensor:
    """KL(q || p) = sum_k q_k (log q_k - log p_k): how far the retriever's distribution is from the teacher's.

    Gradient with respect to a score s_k before the temperature: ``(p_k - q_k) / (T_score n)``, n being the divisor.

    Args:
        logp_BK: the retriever's log-probabilities (`retriever_logp`).
        logq_BK: the teacher's (`teacher_logq`).
        valid_BK: True on real candidates.
        reduction: `batchmean` divides by the weights' sum (the number of queries with a candidate, unweighted);
            `mean_over_BK` by the number of (query, candidate) pairs, whatever the weights (JOMED's code).
        weight_B: weights of the queries; 1 by default.

    Returns:
        A scalar; 0 where p equals q. Without any real candidate it is 0 and has a zero gradient.
    """
    difference_BK = (logq_BK.detach().float() - logp_BK.float()).masked_fill(~valid_BK, 0.0)
    kl_B = (logq_BK.detach().float().exp().masked_fill(~valid_BK, 0.0) * difference_BK).sum(-1)
    return reduced(kl_B, valid_BK, reduction, weight_B)


def marginal_nll(
    logp_BK: Tensor, gold_BK: Tensor, valid_BK: Tensor, reduction: Reduction = "batchmean", weight_B: Tensor | None = None
) -> Tensor:
    """EMDR2: ``-log sum_k p_R(z_k) p(y|z_k)``, the negative log-likelihood of the gold answer in the mixture, in nats.

    The reader is fixed, so the gradient with respect to s_k is ``p_k - q_k`` (over T_score and the divisor) with the posterior
    ``q_k = p_k e^{g_k} / sum_j p_j e^{g_j}``: the same as of `retriever_kl` with the current retriever as prior.

    Args, reduction: as `retriever_kl`; `gold_BK` is log p(y|z_k).

    Returns:
        A scalar; 0 when all weight lies on candidates with which the answer is certain.
    """
    return reduced(mixture_nll(logp_BK, gold_BK, valid_BK), valid_BK, reduction, weight_B)


def mixture_nll(logp_BK: Tensor, gold_BK: Tensor, valid_BK: Tensor) -> Tensor:
    """The terms of `marginal_nll`, one a query: float32 (B,) in nats; 0 for a query without a candidate."""
    joint_BK = (logp_BK.float() + gold_BK.detach().float()).masked_fill(~valid_BK, -torch.inf)
    empty_B = ~valid_BK.any(1)
    nll_B: Tensor = -joint_BK.masked_fill(empty_B[:, None], 0.0).logsumexp(-1)
    return nll_B.masked_fill(empty_B, 0.0)


def reduced(value_B: Tensor, valid_BK: Tensor, reduction: Reduction, weight_B: Tensor | None) -> Tensor:
    """One number a query to one a batch, as `retriever_kl` says; queries without a candidate never count."""
    present_B = valid_BK.any(1).float()
    weight_B = present_B if weight_B is None else weight_B.float() * present_B
    total = (value_B * weight_B).sum()
    if reduction == "mean_over_BK":
        return total / valid_BK.sum().clamp(min=1)
    weights = weight_B.sum()
    return total / torch.where(weights > 0, weights, torch.ones_like(weights))


def candidates_disagree(score_BKC: Tensor, valid_BK: Tensor, valid_BC: Tensor) -> Tensor:
    """bool (B,): whether the most likely answer differs between a query's candidates (JOMED's flag `weighting_kl`).

    Where all candidates lead to one answer there is little for a retriever to learn. `score_BKC`: see `answer_scores`.
    """
    best_BK = score_BKC.masked_fill(~valid_BC[:, None, :], -torch.inf).argmax(-1)
    low_B = best_BK.masked_fill(~valid_BK, score_BKC.shape[-1]).amin(1)
    return best_BK.masked_fill(~valid_BK, -1).amax(1) > low_B
