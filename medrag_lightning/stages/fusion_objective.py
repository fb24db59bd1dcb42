"""What stage `fusion_nce` minimises: scores of a pool and a frozen reader's confidence in, one number a query out."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medrag_lightning import losses
from medrag_lightning.batches import FusionBatch
from medrag_lightning.losses import FusionLoss

NEGATIVES = 8
T_CONFIDENCE = {"listwise": 0.1, "kl": 1.0}


@dataclass(frozen=True, slots=True)
class FusionObjective:
    """The settings of the loss; see `FusionNce` for what they mean. None stands for the default of the kind."""

    kind: FusionLoss
    negatives: int | None
    t_confidence: float | None

    def check(self) -> None:
        """ValueError for a setting that is out of range, or that would be ignored."""
        if self.kind in ("hard", "marginal") and self.t_confidence is not None:
            raise ValueError(f"t_confidence={self.t_confidence} would be ignored by loss {self.kind}; leave it out")
        if self.kind != "hard" and self.negatives is not None:
            raise ValueError(f"negatives={self.negatives} would be ignored: loss {self.kind} uses all candidates; leave it out")
        if self.negatives is not None and self.negatives < 1:
            raise ValueError(f"negatives must be at least 1, got {self.negatives}")
        if self.t_confidence is not None and self.t_confidence <= 0:
            raise ValueError(f"t_confidence must be positive, got {self.t_confidence}")

    def values(self, score_BK: Tensor, batch: FusionBatch, tau: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each query, (B,), and which queries count."""
        valid_BK, confidence_BK = batch.valid, batch.log_confidence_BK
        if self.kind == "hard":
            labels = losses.confidence_labels(confidence_BK, batch.rank_BK, valid_BK, self.negatives or NEGATIVES)
            return losses.info_nce(score_BK, *labels, tau)
        if self.kind == "marginal":
            return losses.marginal(score_BK, confidence_BK.masked_fill(~valid_BK, 0.0), valid_BK, tau)
        t_confidence = self.t_confidence or T_CONFIDENCE[self.kind]
        function = losses.listwise if self.kind == "listwise" else losses.posterior_kl
        return function(score_BK, confidence_BK.masked_fill(~valid_BK, 0.0), valid_BK, tau, t_confidence)
