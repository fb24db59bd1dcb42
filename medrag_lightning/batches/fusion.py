"""What the learned fusion of similarities trains on: arrays, no object for a candidate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medrag_lightning.records import Channel


@dataclass(frozen=True, slots=True)
class FusionBatch:
    """B queries with pools of candidates, padded to K.

    Attributes:
        channels: the M similarities, in order.
        similarity_BKM: float32 cosines; NaN where a query or a document lacks the side, and on padding.
        log_confidence_BK: float32, how sure the frozen reader is of the gold answer with the candidate alone, in nats: its
            probability among the choices (closed), or its likelihood a token (open); NaN on padding, and for a candidate that
            has none of the similarities.
        rank_BK: int16 place of each candidate by confidence, 0 the best, the earlier one first among equals; padding last.
        modality: of each query; None where unknown.
    """

    channels: tuple[Channel, ...]
    similarity_BKM: Tensor
    log_confidence_BK: Tensor
    rank_BK: Tensor
    modality: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.modality)

    @property
    def valid(self) -> Tensor:
        """bool (B, K): True on candidates, False on padding."""
        return ~self.log_confidence_BK.isnan()

    def only(self, channels: tuple[Channel, ...]) -> FusionBatch:
        """With these channels, in this order; ValueError names one that is not there."""
        if lacking := [str(name) for name in channels if name not in self.channels]:
            raise ValueError(
                f"the fusion weighs {lacking[0]}, data.fusion.channels has {[str(c) for c in self.channels]}; name it there"
            )
        if channels == self.channels:
            return self
        places = [self.channels.index(name) for name in channels]
        similarity_BKM = self.similarity_BKM[..., places]
        log_confidence_BK = self.log_confidence_BK.masked_fill(similarity_BKM.isnan().all(-1), torch.nan)
        return replace(self, channels=channels, similarity_BKM=similarity_BKM, log_confidence_BK=log_confidence_BK)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> FusionBatch:
        """A copy on `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> FusionBatch:
        """A copy in page-locked memory."""
        return self._each(Tensor.pin_memory)

    def _each(self, move: Callable[[Tensor], Tensor]) -> FusionBatch:
        moved = [move(tensor) for tensor in (self.similarity_BKM, self.log_confidence_BK, self.rank_BK)]
        return replace(self, similarity_BKM=moved[0], log_confidence_BK=moved[1], rank_BK=moved[2])
