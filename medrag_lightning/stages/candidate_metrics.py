"""How well weights over candidates answer, beside what the same candidates could have given."""

from __future__ import annotations

import torch
from torch import Tensor

from medrag_lightning import losses
from medrag_lightning.batches import CandidateBatch


def weighing_metrics(logw_BK: Tensor, batch: CandidateBatch) -> dict[str, Tensor]:
    """Numbers of each question, (B,), by name; NaN where it has none.

    - ``nll``: of the gold answer in the mixture, nats (open: a token).
    - ``accuracy``: whether the mixture's most likely choice is right (closed questions).
    """
    valid_BK, closed_B = batch.valid_BK, batch.gold_B >= 0
    nll_B = losses.mixture_nll(logw_BK, batch.gold_logp_BK, valid_BK)
    joint_BKC = (logw_BK[..., None] + batch.logp_BKC).masked_fill(~valid_BK[..., None], -torch.inf)
    right_B = joint_BKC.logsumexp(1).argmax(1) == batch.gold_B
    return {"nll": nll_B, "accuracy": torch.where(closed_B, right_B.float(), torch.nan)}


def candidates_right(batch: CandidateBatch) -> Tensor:
    """bool (B, K): whether each candidate alone leads to the gold choice; False for open questions and padding."""
    return (batch.logp_BKC.argmax(-1) == batch.gold_B[:, None]) & (batch.gold_B >= 0)[:, None] & batch.valid_BK


def compared(batch: CandidateBatch) -> dict[str, Tensor]:
    """The same for weights that need no learning (``uniform``, ``first``), and what no weights can exceed by much.

    ``oracle_accuracy``: some candidate alone is right. It also counts lucky guesses: ``chance_accuracy`` is a candidate drawn
    at random, on average.
    """
    right_BK, closed_B = candidates_right(batch), batch.gold_B >= 0
    count_B1 = batch.valid_BK.sum(1, keepdim=True)
    uniform_BK = (-count_B1.float().log()).expand(batch.valid_BK.shape).masked_fill(~batch.valid_BK, -torch.inf)
    first_BK = torch.full_like(uniform_BK, -torch.inf)
    first_BK[:, 0] = 0.0
    made: dict[str, Tensor] = {}
    for name, logw_BK in (("uniform", uniform_BK), ("first", first_BK)):
        made |= {f"{name}_{metric}": value_B for metric, value_B in weighing_metrics(logw_BK, batch).items()}
    made["oracle_accuracy"] = torch.where(closed_B, right_BK.any(1).float(), torch.nan)
    made["chance_accuracy"] = torch.where(closed_B, right_BK.sum(1) / count_B1[:, 0], torch.nan)
    best_B = batch.gold_logp_BK.masked_fill(~batch.valid_BK, -torch.inf).amax(1)
    return made | {"oracle_nll": -best_B}
