"""Steering against full attention in float64, with every cache, padding and family; and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from reader_world import ANSWERS, FAMILIES, answer_rows
from steering_world import FACTOR_L, STEERINGS, reference_logits, world
from torch import nn

from medrag_lightning.batches import Steering
from medrag_lightning.models import scoring

TOLERANCE_NATS = 1e-4


def factor() -> nn.Parameter:
    return nn.Parameter(torch.tensor(FACTOR_L))


@pytest.mark.parametrize("mode", ["rows", "prefill"])
@pytest.mark.parametrize("name", STEERINGS)
def test_scores_equal_full_attention_in_float64(name: str, mode: scoring.ScoringMode) -> None:
    made, asked = world("llava", STEERINGS[name])
    rows = answer_rows(made, [0, 0, 1, 3, 4], [ANSWERS[i] for i in (0, 1, 1, 2, 1)])
    logp_RL = scoring.token_logp(made.core, made.family, asked, rows, mode, factor_L=factor()).detach()
    plain_RL = scoring.token_logp(made.core, made.family, replace(asked, steering=None), rows, mode).detach()
    assert (logp_RL - plain_RL).abs().max() > 100 * TOLERANCE_NATS
    for r, p in enumerate(rows.prompt_of_row_R.tolist()):
        ids = rows.ids_RL[r, rows.mask_RL[r]].tolist()
        logits, _ = reference_logits(made, asked, p, ids)
        expected = logits.log_softmax(-1)[-len(ids) - 1 : -1].gather(-1, torch.tensor(ids)[:, None]).squeeze(-1)
        assert (logp_RL[r, : len(ids)] - expected).abs().max() <= TOLERANCE_NATS


