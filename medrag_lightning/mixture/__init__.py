"""Fusion: from what the reader says under each candidate, and how well each was found, to one answer."""

from medrag_lightning.mixture.answers import (
    fuse_steps,
    geometric_closed,
    log_softmax,
    mix_closed,
    mix_sequence,
    vote_open,
)
from medrag_lightning.mixture.candidate_features import (
    FEATURES,
    GROUPS,
    QUESTION_FEATURES,
    candidate_features,
    found_by_image,
    question_features,
)
from medrag_lightning.mixture.fusion import Fusion, FusionMode
from medrag_lightning.mixture.tuning import TunedFusion, fusion_nll, tune_fusion
from medrag_lightning.mixture.weights import HeadNormalisation, candidate_weights

__all__ = [
    "FEATURES",
    "GROUPS",
    "QUESTION_FEATURES",
    "Fusion",
    "FusionMode",
    "HeadNormalisation",
    "TunedFusion",
    "candidate_features",
    "candidate_weights",
    "found_by_image",
    "fuse_steps",
    "fusion_nll",
    "geometric_closed",
    "log_softmax",
    "mix_closed",
    "mix_sequence",
    "question_features",
    "tune_fusion",
    "vote_open",
]
