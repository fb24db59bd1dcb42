"""How good an order of a pool is for a frozen reader, read off its confidence; and how far each similarity spreads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medrag_lightning.batches import FusionBatch
from medrag_lightning.records import Channel


def order_metrics(score_BK: Tensor, batch: FusionBatch) -> dict[str, Tensor]:
    """Numbers of each query, (B,), by name; NaN where the query has none.

    - ``confidence``: the reader's confidence in the gold answer with the candidate that has the highest score.
    - ``mrr``: one over the place of the positive, the candidate with which the reader is most confident.
    - ``recall@1``: whether the positive comes first.

    The last two are NaN where the reader is equally confident with all candidates. Candidates of equal score come in random
    order, and what is given is the expectation; so a constant score gives what chance would.
    """
    valid_BK, batch_rank_BK = batch.valid, batch.rank_BK
    confidence_BK = batch.log_confidence_BK.exp().masked_fill(~valid_BK, 0.0)
    known_BK = score_BK.masked_fill(~valid_BK, -torch.inf)
    first_BK = (known_BK == known_BK.amax(1, keepdim=True)) & valid_BK
    chosen_B = (confidence_BK * first_BK).sum(1) / first_BK.sum(1)  # 0/0 is NaN: no candidates
    positive_BK = valid_BK & (batch_rank_BK == 0)
    positive_B1 = known_BK.masked_fill(~positive_BK, -torch.inf).amax(1, keepdim=True)
    before_B = (known_BK > positive_B1).sum(1)
    level_B = ((known_BK == positive_B1) & valid_BK).sum(1)
    harmonic = (1 / torch.arange(1, score_BK.shape[1] + 1, device=score_BK.device)).cumsum(0)
    harmonic = torch.nn.functional.pad(harmonic, (1, 0))
    reciprocal_B = (harmonic[before_B + level_B] - harmonic[before_B]) / level_B
    recall_B = (before_B == 0).float() / level_B
    lowest_B = confidence_BK.masked_fill(~valid_BK, torch.inf).amin(1)
    differs_B = (confidence_BK.amax(1) > lowest_B) & positive_BK.any(1)
    nothing = score_BK.new_full((), torch.nan)
    return {
        "confidence": chosen_B,
        "mrr": torch.where(differs_B, reciprocal_B, nothing),
        "recall@1": torch.where(differs_B, recall_B, nothing),
    }


def baseline_scores(comparable_BKM: Tensor, channels: Sequence[Channel]) -> dict[str, Tensor]:
    """(B, K) scores of what a learned fusion is compared with: each similarity alone, their plain sum, and chance."""
    alone = {str(channel): comparable_BKM[..., place] for place, channel in enumerate(channels)}
    return {**alone, "uniform": comparable_BKM.sum(-1), "random": torch.zeros_like(comparable_BKM[..., 0])}


def spread(similarity_BKM: Tensor) -> Tensor:
    """(B, M) standard deviation of each similarity over a query's candidates; NaN where none has it."""
    known_BKM = ~similarity_BKM.isnan()
    count_BM = known_BKM.sum(1)
    mean_BM = similarity_BKM.nan_to_num(0.0).sum(1) / count_BM
    return ((similarity_BKM - mean_BM[:, None]).square().nan_to_num(0.0).sum(1) / count_BM).sqrt()
