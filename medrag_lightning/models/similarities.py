"""Similarities of a query's candidates made comparable across channels, missing ones filled."""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-6
"""A channel whose cosines vary by no more than this over the candidates says the same of all of them."""


def centred(similarity_BKM: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines less their mean over a query's candidates (0 where missing), that mean and the standard deviation (B, M).

    Both are over the candidates that have the channel (population standard deviation); 0 for a channel that none has.
    """
    known_BKM = ~similarity_BKM.isnan()
    count_BM = known_BKM.sum(1).clamp(min=1)
    mean_BM = similarity_BKM.nan_to_num(0.0).sum(1) / count_BM
    centred_BKM = (similarity_BKM - mean_BM[:, None]).masked_fill(~known_BKM, 0.0)
    return centred_BKM, mean_BM, (centred_BKM.square().sum(1) / count_BM).sqrt()


def comparable(similarity_BKM: Tensor, standardise: bool) -> Tensor:
    """float32 (B, K, M) what weights multiply; no NaN.

    With `standardise` each channel has zero mean and unit variance over a query's candidates, so that weights do not merely
    make up for the channels' scales (image-image cosines lie far above image-text ones); a constant channel is 0. A missing
    cosine counts as the channel's mean over the query's candidates: it speaks neither for nor against the candidate. So does
    padding; what it scores means nothing.
    """
    similarity_BKM = similarity_BKM.float()
    made_BKM, mean_BM, std_BM = centred(similarity_BKM)
    if standardise:
        made_BKM = torch.where((std_BM > TINY)[:, None], made_BKM / std_BM.clamp(min=TINY)[:, None], 0.0)
    else:
        made_BKM = made_BKM + mean_BM[:, None]
    return made_BKM
