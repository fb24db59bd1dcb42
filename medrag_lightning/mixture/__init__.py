"""Fusion: from what the reader says under each candidate, and how well each was found, to one answer."""

from medrag_lightning.mixture.answers import (
    fuse_steps,
    geometric_closed,
    log_softmax,
    mix_closed,
    mix_sequence,
    vote_open,
)
from medrag_lightning.mixture.fusion import Fusion, FusionMode
from medrag_lightning.mixture.tuning import TunedFusion, fusion_nll, tune_fusion
from medrag_lightning.mixture.weights import HeadNormalisation, candidate_weights

__all__ = [
    "Fusion",
    "FusionMode",
    "HeadNormalisation",
    "TunedFusion",
    "candidate_weights",
    "fuse_steps",
    "fusion_nll",
    "geometric_closed",
    "log_softmax",
    "mix_closed",
    "mix_sequence",
    "tune_fusion",
    "vote_open",
]
