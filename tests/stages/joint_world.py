"""Coloured squares, reports that name colours, and a reader and a retriever that learn together."""

from __future__ import annotations

from functools import partial

import torch
from distill_world import STEADY, data, heads, source
from toy import reader

from medrag_lightning.stages.joint import Joint, JointRates

ADAM = partial(torch.optim.AdamW, lr=1.0)  # the stage gives each part a rate of its own
RATES = JointRates(reader=3e-3, retriever=1e-2)
__all__ = ["ADAM", "RATES", "STEADY", "joint", "served"]


def joint(made=None, dropout: float = 0.0, optimizer=ADAM, **settings) -> Joint:
    told = {"schedule": STEADY, "learning_rates": RATES, **settings}
    return Joint(reader(dropout=dropout), made or heads(), optimizer, **told)


def served(folder, table, count: int = 3, plan=None, search=None, **settings):
    return data(folder, table, None, plan, search or source(count=count, sides=("text",)), **settings)
