"""What a candidate re-ranker trains on: features of the candidates of a question, and what a frozen reader said with each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class CandidateBatch:
    """B questions with their candidates, padded to K, and to C answers.

    Attributes:
        feature_BKF: float32, of each candidate (`mixture.candidate_features`); 0 on padding.
        question_BQ: float32, of the question.
        by_image_BK: bool, whether the question's image found the candidate; False on padding.
        valid_BK: bool, False on padding.
        gold_logp_BK: float32, log-probability of the gold answer with the candidate alone, in nats: among the choices (closed)
            or a token (open); 0 on padding. A target, never a feature.
        logp_BKC: float32, log-probability of every choice of a closed question; -inf on padding and for an open question.
        gold_B: int64, place of the gold choice; -1 for an open question.
        score_BK: float32 retrieval scores; 0 on padding.
    """

    feature_BKF: Tensor
    question_BQ: Tensor
    by_image_BK: Tensor
    valid_BK: Tensor
    gold_logp_BK: Tensor
    logp_BKC: Tensor
    gold_B: Tensor
    score_BK: Tensor

    def __len__(self) -> int:
        return len(self.gold_B)

    def at(self, places: Tensor) -> CandidateBatch:
        """The questions at these places."""
        return self._each(lambda tensor: tensor[places])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> CandidateBatch:
        """The same on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> CandidateBatch:
        """The same in pinned memory."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> CandidateBatch:
        return CandidateBatch(**{field.name: change(getattr(self, field.name)) for field in fields(self)})
