"""Losses as pure functions: float32 inside, formula, reduction and perfect value stated."""

from medrag_lightning.losses.answers import answer_nll
from medrag_lightning.losses.contrastive import (
    ContrastiveKind,
    clip_softmax,
    contrastive_loss,
    duplicates,
    factual_twins,
    siglip,
)
from medrag_lightning.losses.distillation import (
    Gold,
    Prior,
    Reduction,
    answer_scores,
    candidates_disagree,
    gold_score,
    leave_one_out,
    log_posterior,
    marginal_nll,
    mixture_nll,
    retriever_kl,
    retriever_logp,
    teacher_logq,
)
from medrag_lightning.losses.fusion import (
    FusionLoss,
    confidence_labels,
    info_nce,
    listwise,
    marginal,
    mean_counted,
    posterior_kl,
    right_candidates,
)
from medrag_lightning.losses.grad_cache import in_chunks
from medrag_lightning.losses.joint import Likelihood, answer_logp, joint_nll, mixture_logp
from medrag_lightning.losses.policy import mean_of_others, reinforce, reward
from medrag_lightning.losses.preference import PreferenceKind, chosen_nll, preference_loss, preference_margin, weighted_mean

__all__ = [
    "ContrastiveKind",
    "FusionLoss",
    "Gold",
    "Likelihood",
    "PreferenceKind",
    "Prior",
    "Reduction",
    "answer_logp",
    "answer_nll",
    "answer_scores",
    "candidates_disagree",
    "chosen_nll",
    "clip_softmax",
    "confidence_labels",
    "contrastive_loss",
    "duplicates",
    "factual_twins",
    "gold_score",
    "in_chunks",
    "info_nce",
    "joint_nll",
    "leave_one_out",
    "listwise",
    "log_posterior",
    "marginal",
    "marginal_nll",
    "mean_counted",
    "mean_of_others",
    "mixture_logp",
    "mixture_nll",
    "posterior_kl",
    "preference_loss",
    "preference_margin",
    "reinforce",
    "retriever_kl",
    "retriever_logp",
    "reward",
    "right_candidates",
    "siglip",
    "teacher_logq",
    "weighted_mean",
]
