"""The likelihood of an answer when its evidence is a latent variable: what trains a reader and a retriever together.

Sources: RAG (Lewis et al. 2020, arXiv 2005.11401, Section 2, RAG-Sequence) and EMDR2 (Sachan et al. 2021, arXiv 2106.05346).
`losses.marginal_nll` is the same number with a fixed reader; here both factors have gradients. JOMED (arXiv 2508.17394) trains
one after the other and names this as open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from medrag_lightning.losses.distillation import retriever_logp

Likelihood = Literal["closed", "sequence"]
"""log p(a|z_k,q) of the gold answer: `closed`, its log-posterior among the question's own choices, each scored exactly;
`sequence`, the log-probability of its tokens, whatever the other choices are."""


def answer_logp(kind: Likelihood, logp_BKC: Tensor, gold_BC: Tensor, valid_BC: Tensor) -> Tensor:
    """log p(a|z_k,q) of the gold answer in nats, float32 (B, K); differentiable.

    Any of several gold answers is right, so their probabilities are added.

    Args:
        kind: see `Likelihood`.
        logp_BKC: log-probability of each answer after each candidate, summed over its tokens.
        gold_BC: True on the gold answers.
        valid_BC: True on real answers; padding never counts.
    """
    score_BKC = logp_BKC.float().masked_fill(~valid_BC[:, None, :], -torch.inf)
    if kind == "closed":
        score_BKC = score_BKC.log_softmax(-1)
    return score_BKC.masked_fill(~(gold_BC & valid_BC)[:, None, :], -torch.inf).logsumexp(-1)


def mixture_logp(score: Sequence[Tensor], valid: Sequence[Tensor], t_score: float) -> tuple[Tensor, Tensor]:
    """log p_R(z_k|q) over the candidates of all sides, (B, K), and which are real: K of each side, side after side.

    Within a side it is ``log_softmax_k(s_k / t_score)``; sides that have a candidate weigh alike, as in the answer's mixture.

    Args:
        score: the retriever's scores by side, (B, K of that side); differentiable.
        valid: True on real candidates.
        t_score: divides scores.
    """
    present_SB = torch.stack([one_BK.any(1) for one_BK in valid])
    share_B1 = present_SB.sum(0).clamp(min=1).float().log()[:, None]
    logp = [retriever_logp(score_BK, valid_BK, t_score) - share_B1 for score_BK, valid_BK in zip(score, valid, strict=True)]
    return torch.cat(logp, dim=1), torch.cat(list(valid), dim=1)


def joint_nll(logp_BK: Tensor, answer_BK: Tensor, valid_BK: Tensor) -> Tensor:
    """``-log sum_k p_R(z_k|q) p(a|z_k,q)`` of each query, float32 (B,) in nats; 0 for a query without a candidate.

    With the posterior ``q_k = p_k e^{a_k} / sum_j p_j e^{a_j}`` the gradient by the answer's log-probability a_k is ``-q_k``:
    the reader learns most where the answer probably came from. By a score s_k it is ``(p_k - q_k) / t_score``: what explains
    the answer better than it ranks rises.

    Args:
        logp_BK: log p_R(z_k|q), see `mixture_logp`; differentiable.
        answer_BK: log p(a|z_k,q), see `answer_logp`; differentiable.
        valid_BK: True on real candidates; what stands elsewhere never counts and gets no gradient.

    Returns:
        At least 0 if both are log-probabilities; 0 when all weight lies on candidates with which the answer is certain.
    """
    total_BK = torch.where(valid_BK, logp_BK.float() + answer_BK.float(), -torch.inf)
    empty_B = ~valid_BK.any(1)
    nll_B: Tensor = -total_BK.masked_fill(empty_B[:, None], 0.0).logsumexp(-1)
    return nll_B.masked_fill(empty_B, 0.0)
