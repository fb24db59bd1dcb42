"""Losses as pure functions: float32 inside, formula, reduction and perfect value stated."""

from medrag_lightning.losses.answers import answer_nll

__all__ = ["answer_nll"]
