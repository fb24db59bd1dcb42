"""Losses as pure functions: float32 inside, formula, reduction and perfect value stated."""

from medrag_lightning.losses.answers import answer_nll
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
    retriever_kl,
    retriever_logp,
    teacher_logq,
)

__all__ = [
    "Gold",
    "Prior",
    "Reduction",
    "answer_nll",
    "answer_scores",
    "candidates_disagree",
    "gold_score",
    "leave_one_out",
    "log_posterior",
    "marginal_nll",
    "retriever_kl",
    "retriever_logp",
    "teacher_logq",
]
