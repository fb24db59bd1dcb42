"""The gate that weighs similarities query by query: what it looks at, and the small network behind it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medrag_lightning.models.similarities import TINY, centred

STATISTICS = 5


class FusionGate(nn.Module):
    """An MLP from the channel statistics of a query's candidates, and its modality, to a change of the weights.

    The last layer starts at zero, so a query's weights start as the shared ones. (MR-RAG names adaptive weights as future
    work; the design is ours.)

    Args:
        channels: M.
        modalities: that have an input of their own; others are all zeros there.
        hidden: width.
    """

    def __init__(self, channels: int, modalities: Sequence[str], hidden: int) -> None:
        super().__init__()
        self.place_of = {name: place for place, name in enumerate(modalities)}
        self.first = nn.Linear(STATISTICS * channels + len(modalities), hidden)
        self.last = nn.Linear(hidden, channels)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, similarity_BKM: Tensor, modality: Sequence[str | None]) -> Tensor:
        """(B, M) what is added to the shared weights before their constraint."""
        shown = torch.zeros(len(modality), len(self.place_of), device=similarity_BKM.device)
        for row, name in enumerate(modality):
            if name in self.place_of:
                shown[row, self.place_of[name]] = 1.0
        seen = torch.cat([statistics(similarity_BKM), shown], dim=1)
        changed: Tensor = self.last(torch.tanh(self.first(seen)))
        return changed


def statistics(similarity_BKM: Tensor) -> Tensor:
    """float32 (B, 5 M): what a channel's similarities look like, each of order one; zeros for a missing channel.

    Mean; log10 of the standard deviation, plus 1 (a channel with nothing to tell varies little); the best one's distance from
    the mean and from the second best, in standard deviations; mean correlation over the candidates with the other channels.
    """
    centred_BKM, mean_BM, std_BM = centred(similarity_BKM)
    there_BM = ~similarity_BKM.isnan().all(1)
    scaled_BKM = torch.where((std_BM > TINY)[:, None], centred_BKM / std_BM.clamp(min=TINY)[:, None], 0.0)
    known_BKM = scaled_BKM.masked_fill(similarity_BKM.isnan(), -torch.inf)
    best_BTM = known_BKM.topk(min(2, known_BKM.shape[1]), dim=1).values.nan_to_num(neginf=0.0)
    count_B = (~similarity_BKM.isnan()).any(-1).sum(1).clamp(min=1)
    correlation_BMM = torch.einsum("bkm,bkn->bmn", scaled_BKM, scaled_BKM) / count_B[:, None, None]
    others = max(1, similarity_BKM.shape[-1] - 1)
    agreement_BM = (correlation_BMM.sum(-1) - correlation_BMM.diagonal(dim1=1, dim2=2)) / others
    parts = [mean_BM, std_BM.clamp(min=TINY).log10() + 1, best_BTM[:, 0], best_BTM[:, 0] - best_BTM[:, -1], agreement_BM]
    return torch.cat([part.masked_fill(~there_BM, 0.0) for part in parts], dim=1)
