"""What stage `retriever_kl` minimises for one head: reader's numbers and retriever's scores in, one loss out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medrag_lightning import losses
from medrag_lightning.losses import Gold, Prior, Reduction
from medrag_lightning.stages.distill_collator import Answers


@dataclass(frozen=True, slots=True)
class Objective:
    """The settings of the loss; see `RetrieverKl` for what they mean."""

    gold: Gold
    prior: Prior
    t_gold: float
    reduction: Reduction
    scale: float
    length_normalised: bool
    skip_agreeing: bool
    prior_by_t_score: bool

    def check(self) -> None:
        """ValueError for a setting that is out of range, or that would be ignored."""
        if self.t_gold <= 0 or self.scale <= 0:
            raise ValueError(f"t_gold and scale must be positive, got {self.t_gold} and {self.scale}")
        if self.gold == "emdr2" and (self.prior != "current" or self.t_gold != 1):
            raise ValueError(
                f"prior={self.prior!r} or t_gold={self.t_gold} would be ignored: gold emdr2 maximises the mixture's "
                "likelihood, which has no teacher; leave them at current and 1"
            )
        if self.gold == "pdist" and self.length_normalised:
            raise ValueError("length_normalised would be ignored: gold pdist always is; leave it out")
        if self.prior == "none" and not self.prior_by_t_score:
            raise ValueError("prior_by_t_score=false would be ignored: there is no prior; leave it out")

    def loss(
        self, score_BK: Tensor, frozen_BK: Tensor, logp_BKC: Tensor, valid_BK: Tensor, answers: Answers, t_score: float
    ) -> Tensor:
        """The scalar to minimise, without `scale`.

        Args:
            score_BK: the trained head's scores, with gradient.
            frozen_BK: those of the frozen retriever.
            logp_BKC, valid_BK, answers: see `PoolBatch` and `Answers`.
            t_score: divides scores before the softmax over candidates.
        """
        gold_BK = losses.gold_score(
            self.gold, logp_BKC, answers.token_count_BC, answers.gold_BC, answers.valid_BC, self.length_normalised
        )
        logp_BK = losses.retriever_logp(score_BK, valid_BK, t_score)
        weight_B = self._weights(logp_BKC, valid_BK, answers)
        if self.gold == "emdr2":
            return losses.marginal_nll(logp_BK, gold_BK, valid_BK, self.reduction, weight_B)
        prior_BK = self._prior(score_BK, frozen_BK, valid_BK, t_score)
        if self.gold == "loop":
            even_BK = torch.zeros_like(gold_BK) if prior_BK is None else prior_BK
            gold_BK = losses.leave_one_out(gold_BK, even_BK, valid_BK)
        logq_BK = losses.teacher_logq(gold_BK, prior_BK, valid_BK, self.t_gold)
        return losses.retriever_kl(logp_BK, logq_BK, valid_BK, self.reduction, weight_B)

    def _prior(self, score_BK: Tensor, frozen_BK: Tensor, valid_BK: Tensor, t_score: float) -> Tensor | None:
        if self.prior == "none":
            return None
        chosen_BK = (score_BK if self.prior == "current" else frozen_BK).detach()
        return losses.retriever_logp(chosen_BK, valid_BK, t_score if self.prior_by_t_score else 1.0)

    def _weights(self, logp_BKC: Tensor, valid_BK: Tensor, answers: Answers) -> Tensor | None:
        if not self.skip_agreeing:
            return None
        score_BKC = losses.answer_scores(logp_BKC, answers.token_count_BC, self.length_normalised)
        return losses.candidates_disagree(score_BKC, valid_BK, answers.valid_BC).float()
