"""The settings of fusion, and fusion by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medrag_lightning.mixture.answers import Floats, geometric_closed, mix_closed, mix_sequence
from medrag_lightning.mixture.weights import HeadNormalisation, candidate_weights
from medrag_lightning.records import Channel

FusionMode = Literal["probability_mixture", "logit_mixture"]
"""`probability_mixture`: p(a|q) = sum_k p(a|z_k,q) w_k (JOMED's formula). `logit_mixture`: weighted log-scores are added, a
geometric mixture (JOMED's released code)."""


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class Fusion:
    """How candidates that are read one a prompt become one answer. JOMED's released code: ``logit_mixture``, ``divide_by_max``,
    temperature 1.

    Free text that was generated is voted on with the same weights in either mode.

    Args:
        mode: what is added up.
        normalisation: how retrieval scores of several heads become weights.
        temperature: divides retrieval scores before the softmax that weighs candidates.
        head_weights: weight of each head by channel name, such as ``image_to_image``; null for all alike.
    """

    mode: FusionMode = "probability_mixture"
    normalisation: HeadNormalisation = "per_head_softmax"
    temperature: float = 0.1
    head_weights: dict[str, float] | None = None

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not math.isfinite(self.temperature):
            raise ValueError(f"fusion.temperature must be positive, got {self.temperature}")
        if self.head_weights is None:
            return
        if self.normalisation != "per_head_softmax":
            raise ValueError(f"fusion.head_weights would be ignored with normalisation {self.normalisation!r}; leave them out")
        known = [str(channel) for channel in Channel]
        for name, weight in self.head_weights.items():
            if name not in known:
                raise ValueError(f"fusion.head_weights names {name!r}, which is no channel; the channels are {known}")
            if not weight >= 0 or not math.isfinite(weight):
                raise ValueError(f"fusion.head_weights: the weight of {name!r} must be 0 or more, got {weight}")

    def weights(self, scores: Sequence[float], channels: Sequence[str]) -> Floats:
        """Weights w_K of K candidates; they sum to 1."""
        return candidate_weights(scores, channels, self.temperature, self.normalisation, self.head_weights)

    def closed(self, logp_KC: Floats, weight_K: Floats) -> Floats:
        """Log-probabilities of the C answers, normalised over them, from each candidate's log-scores."""
        return (mix_closed if self.mode == "probability_mixture" else geometric_closed)(logp_KC, weight_K)

    def sequence(self, logp_K: Floats, weight_K: Floats) -> float:
        """Log-probability of a given text; for `logit_mixture` a lower bound: its sum over all texts is below 1."""
        return mix_sequence(logp_K, weight_K) if self.mode == "probability_mixture" else float(weight_K @ logp_K)
