"""How good a retriever's order of a pool is for a frozen reader: read off the reader's scores, no reader needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from medrag_lightning import losses
from medrag_lightning.stages.distill_collator import Answers, PoolBatch


def pool_metrics(
    score: Mapping[str, Tensor],
    pools: Mapping[str, PoolBatch],
    answers: Answers,
    trained: Sequence[str],
    t_score: float,
    top: int,
) -> dict[str, Tensor]:
    """Numbers of each query, (B,), by name.

    - ``loss``: -log sum_k p_R(z_k) p(gold|z_k), the gold answer's negative log-likelihood in the pool's mixture, in nats.
    - ``expected_gold``: sum_k p_R(z_k) p(gold|z_k), the gold answer's probability under a candidate drawn from p_R.
    - ``top1_accuracy``: whether the reader is right with the candidate that the retriever puts first.
    - ``fused_accuracy``: whether it is with the first `top` candidates of every side, mixed: a softmax over each side's scores,
      sides alike (`mixture`, JOMED's inference in probability space).

    The first three are means over the `trained` sides; a side without candidates counts for nothing. NaN without any.

    Args:
        score: (B, K) scores by side.
        pools: the pools by side, with the reader's numbers.
        answers: the closed answers.
        trained: the sides whose heads train.
        t_score: divides scores before the softmax over candidates.
        top: candidates a side that are mixed.
    """
    sides = {side: _of_side(score[side], pool, answers, t_score, top) for side, pool in pools.items()}
    weight_SB = torch.stack([pools[side].valid_BK.any(1).float() for side in trained])
    shares_SB = weight_SB / weight_SB.sum(0)
    names = ("loss", "expected_gold", "top1_accuracy")
    found = {name: (torch.stack([sides[side][name] for side in trained]) * shares_SB).sum(0) for name in names}
    mixed_BC = torch.stack([numbers["mixture"] for numbers in sides.values()]).sum(0)
    return {**found, "fused_accuracy": right(mixed_BC, answers)}


def _of_side(score_BK: Tensor, pool: PoolBatch, answers: Answers, t_score: float, top: int) -> dict[str, Tensor]:
    """The numbers of one side, and the mixture of its first `top` candidates, (B, C); 0 without candidates."""
    posterior_BKC = losses.log_posterior(pool.logp_BKC, answers.valid_BC).exp()
    gold_BK = posterior_BKC.masked_fill(~answers.gold_BC[:, None, :], 0.0).sum(-1)
    weight_BK = losses.retriever_logp(score_BK, pool.valid_BK, t_score).exp().masked_fill(~pool.valid_BK, 0.0)
    expected_B = (weight_BK * gold_BK).sum(1)
    first_BT = score_BK.masked_fill(~pool.valid_BK, -torch.inf).topk(min(top, score_BK.shape[1]), dim=1).indices
    kept_BT = pool.valid_BK.gather(1, first_BT)
    weight_BT = losses.retriever_logp(score_BK.gather(1, first_BT), kept_BT, t_score).exp() * kept_BT
    shown_BTC = posterior_BKC.gather(1, first_BT[..., None].expand(-1, -1, posterior_BKC.shape[-1]))
    return {
        "loss": -expected_B.clamp(min=1e-30).log(),
        "expected_gold": expected_B,
        "top1_accuracy": right(shown_BTC[:, 0], answers),
        "mixture": (weight_BT[..., None] * shown_BTC).sum(1),
    }


def oracle(pools: Mapping[str, PoolBatch], answers: Answers) -> Tensor:
    """float32 (B,): whether the reader is right with any candidate of any pool alone; no order of a pool does better at 1."""
    any_B = torch.zeros(len(answers.valid_BC), device=answers.valid_BC.device)
    for pool in pools.values():
        posterior_BKC = losses.log_posterior(pool.logp_BKC, answers.valid_BC)
        right_BK = answers.gold_BC.gather(1, posterior_BKC.argmax(-1)) & pool.valid_BK
        any_B = torch.maximum(any_B, right_BK.any(1).float())
    return any_B


def right(value_BC: Tensor, answers: Answers) -> Tensor:
    """float32 (B,): whether the largest value of a real answer is a gold one's."""
    best_B1 = value_BC.masked_fill(~answers.valid_BC, -1.0).argmax(-1, keepdim=True)
    return answers.gold_BC.gather(1, best_B1).squeeze(1).float()
