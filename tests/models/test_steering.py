"""Steering against full attention in float64, with every cache, padding and family; and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reader_folders import FOLDERS
from reader_world import ANSWERS, FAMILIES, answer_rows, prompts
from steering_world import FACTOR_L, STEERINGS, by_hand, reference_logits, world
from torch import nn

from medrag_lightning.batches import EncodedPrompts, Role, Steering, TokenRoles
from medrag_lightning.models import scoring
from medrag_lightning.models.backbones import Pretrained
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.steering import steered

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


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str) -> None:
    made, asked = world(family, STEERINGS["paper"])
    rows = answer_rows(made, [0, 1, 2, 3, 3, 4], [ANSWERS[i] for i in (0, 1, 1, 2, 1, 0)])
    with torch.no_grad():
        logp_RL = made.token_logp(asked, rows)
        by_rows = scoring.token_logp(made.core, made.family, asked, rows, "rows")
    assert (logp_RL - by_rows).abs().max() <= TOLERANCE_NATS
    for r in (1, 4):
        p, ids = int(rows.prompt_of_row_R[r]), rows.ids_RL[r, rows.mask_RL[r]].tolist()
        logits, _ = reference_logits(made, asked, p, ids)
        expected = logits.log_softmax(-1)[-len(ids) - 1 : -1].gather(-1, torch.tensor(ids)[:, None]).squeeze(-1)
        assert (logp_RL[r, : len(ids)] - expected).abs().max() <= TOLERANCE_NATS


@pytest.mark.parametrize("name", ["paper", "mass_preserving", "pai generated"])
@pytest.mark.parametrize("family", ["smolvlm", "pixtral", "mistral3", "gemma3"])
def test_families_loaded_from_folders(family: str, name: str, tmp_path: Path) -> None:
    """Gemma 3 sees images as a whole and slides its window."""
    FOLDERS[family](tmp_path)
    made = HfReader(Pretrained(str(tmp_path), max_image_side_px=32))
    made.prepare(())
    made.eval()
    encoded = made.processor.encode_prompts(prompts())
    asked = replace(encoded, roles=by_hand(encoded), steering=STEERINGS[name])
    rows = answer_rows(made, [0, 3], [ANSWERS[1], ANSWERS[0]])
    for mode in ("rows", "prefill"):
        with torch.no_grad():
            logp_RL = scoring.token_logp(made.core, made.family, asked, rows, mode)
            plain_RL = scoring.token_logp(made.core, made.family, encoded, rows, mode)
        assert (logp_RL - plain_RL).abs().max() > 10 * TOLERANCE_NATS
        for r, p in enumerate((0, 3)):
            ids = rows.ids_RL[r, rows.mask_RL[r]].tolist()
            logits, _ = reference_logits(made, asked, p, ids)
            expected = logits.log_softmax(-1)[-len(ids) - 1 : -1].gather(-1, torch.tensor(ids)[:, None]).squeeze(-1)
            assert (logp_RL[r, : len(ids)] - expected).abs().max() <= TOLERANCE_NATS


def forward(made: HfReader, asked: EncodedPrompts, **settings: Any) -> Any:
    inputs = scoring.model_inputs(made.core, made.family, asked)
    with torch.no_grad(), steered(made.core, made.family, asked, factor()):
        return made.core(**inputs, position_ids=scoring.positions(made.core, made.family, asked), **settings)


@pytest.mark.parametrize("family", FAMILIES[:3])
def test_strength_0_is_the_stock_model_bit_for_bit(family: str) -> None:
    made, asked = world(family, None)
    stock = forward(made, asked).logits
    assert made.core.config.text_config._attn_implementation == "sdpa"
    for policy in ("paper", "centred", "mass_preserving", "learned", "pai"):
        assert torch.equal(forward(made, replace(asked, steering=Steering(policy, "all", gain=0.0))).logits, stock)
    assert made.core.config.text_config._attn_implementation == "medrag_ifa"
    assert torch.equal(forward(made, asked).logits, stock)  # the same without any steering, now through our function


def test_rows_before_the_question_keep_their_bits() -> None:
    made, asked = world("llava", None)
    stock = forward(made, asked, output_hidden_states=True).hidden_states
    for name in ("paper", "mass_preserving", "knockout"):
        changed = forward(made, replace(asked, steering=STEERINGS[name]), output_hidden_states=True).hidden_states
        for p in range(len(asked.ids_PT)):
            first = int((asked.roles.role_PT[p] == list(Role).index(Role.QUESTION)).int().argmax())
            for before, after in zip(stock, changed, strict=True):
                assert torch.equal(before[p, :first], after[p, :first])
            assert not torch.equal(stock[-1][p, first:], changed[-1][p, first:])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["paper", "mass_preserving", "pai", "pasta", "knockout last"])
def test_padding_changes_nothing(name: str, side: str) -> None:
    made, asked = world("llava", STEERINGS[name])
    batch = asked
    if side == "right":
        count = asked.mask_PT.sum(1).tolist()
        turned = [torch.roll(torch.arange(asked.ids_PT.shape[1]), n) for n in count]
        index_PT = torch.stack(turned)
        roles = TokenRoles(
            asked.roles.role_PT.gather(1, index_PT), asked.roles.document_PT.gather(1, index_PT), asked.roles.strength_PK
        )
        batch = replace(asked, ids_PT=asked.ids_PT.gather(1, index_PT), mask_PT=asked.mask_PT.gather(1, index_PT), roles=roles)
    logits_PTV = forward(made, batch).logits
    for p in range(len(asked.ids_PT)):
        alone = forward(made, scoring._trimmed(scoring.select_prompts(made.family, asked, [p]))).logits[0]
        assert (logits_PTV[p][batch.mask_PT[p] > 0] - alone).abs().max() <= TOLERANCE_NATS


@pytest.mark.parametrize("name", ["paper", "generated", "pai generated", "mass_preserving"])
def test_generation_is_the_same_with_every_cache(name: str) -> None:
    """Dynamic, static and none; each against the scores of full attention."""
    made, asked = world("llava", STEERINGS[name])
    settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": -1}
    settings |= {"output_logits": True, "return_dict_in_generate": True}
    made_by = []
    inputs = scoring.model_inputs(made.core, made.family, asked)
    for kind in ({}, {"cache_implementation": "static"}, {"use_cache": False}):
        with torch.no_grad(), steered(made.core, made.family, asked):
            made_by.append(made.core.generate(**inputs, **settings, **kind))
    reference, _ = reference_logits(made, asked, 0, made_by[0].sequences[0, -5:-1].tolist())
    logits = torch.stack([step[0] for step in made_by[0].logits])
    assert (logits - reference[-5:]).abs().max() <= TOLERANCE_NATS
    for other in made_by[1:]:
        assert torch.equal(other.sequences, made_by[0].sequences)
        for mine, theirs in zip(other.logits, made_by[0].logits, strict=True):
            assert (mine - theirs).abs().max() <= TOLERANCE_NATS


