"""Attention mass from the question's rows, against the whole attention computed in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from reader_world import FAMILIES, prompts
from steering_world import PLACE, STEERINGS, reference_logits, world

from medrag_lightning.batches import SEGMENTS, Role
from medrag_lightning.interfaces import AttentionReader


@pytest.mark.parametrize("name", [None, "paper", "mass_preserving", "pai", "knockout", "knockout last"])
def test_equals_the_whole_attention(name: str | None) -> None:
    made, asked = world("llava", None if name is None else STEERINGS[name])
    assert isinstance(made, AttentionReader)
    assert made.layer_count == 2
    found = made.attention_mass(asked)
    assert found.segment_PLS.shape == (5, 2, len(SEGMENTS))
    assert found.document_PLK.shape == (5, 2, 3)
    torch.testing.assert_close(found.segment_PLS.sum(-1), torch.ones(5, 2))
    torch.testing.assert_close(found.document_PLK.sum(-1), found.segment_PLS[..., 0])
    for p in (0, 2):
        _, told = reference_logits(made, asked, p, [])
        role, document = torch.tensor(told.role_T), torch.tensor(told.document_T)
        for layer, weights_HTT in enumerate(told.seen):
            mean_T = weights_HTT.mean(0)[role == PLACE[Role.QUESTION]].mean(0)
            for s, place in enumerate((Role.EVIDENCE_TEXT, Role.QUERY_IMAGE, Role.QUESTION)):
                assert abs(found.segment_PLS[p, layer, s] - mean_T[role == PLACE[place]].sum()) <= 1e-5
            for k in range(3):
                assert abs(found.document_PLK[p, layer, k] - mean_T[document == k].sum()) <= 1e-5


def test_knockout_leaves_exactly_nothing() -> None:
    made, asked = world("llava", STEERINGS["knockout"])
    assert made.attention_mass(asked).segment_PLS[..., 0].abs().max() == 0
    asked = replace(asked, steering=STEERINGS["knockout image"])
    assert made.attention_mass(asked).segment_PLS[..., 1].abs().max() == 0


def test_steering_moves_mass_and_mass_preserving_does_not() -> None:
    made, asked = world("llava", None)
    plain = made.attention_mass(asked).segment_PLS
    first = {
        name: made.attention_mass(replace(asked, steering=STEERINGS[name])).segment_PLS[:, 0] - plain[:, 0]
        for name in ("paper", "mass_preserving")
    }
    assert (first["paper"][:, 0] > 0).all()
    assert (first["paper"][:, 1] < 0).all()
    assert first["mass_preserving"].abs().max() <= 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_the_processors_own_roles(family: str) -> None:
    made, _ = world(family, None)
    encoded = made.processor.encode_prompts(prompts(), roles=True)
    found = made.attention_mass(encoded)
    torch.testing.assert_close(found.segment_PLS.sum(-1), torch.ones(5, 2))
    assert (found.segment_PLS[[0, 1, 4], :, 1] > 0).all()  # those that show a query image
    assert (found.segment_PLS[[2, 3], :, 1] == 0).all()
    assert found.document_PLK.shape[-1] == 1
    assert (found.document_PLK > 0).all()


def test_looking_changes_nothing_and_needs_roles() -> None:
    made, asked = world("llava", None)
    before = made.core(**asked.vision, input_ids=asked.ids_PT, attention_mask=asked.mask_PT).logits
    made.attention_mass(asked)
    assert torch.equal(made.core(**asked.vision, input_ids=asked.ids_PT, attention_mask=asked.mask_PT).logits, before)
    with pytest.raises(ValueError, match="roles=True"):
        made.attention_mass(replace(asked, roles=None))
    nobody = replace(asked.roles, role_PT=torch.full_like(asked.roles.role_PT, -1))  # type: ignore[union-attr, type-var]
    with pytest.raises(ValueError, match="no question token"):
        made.attention_mass(replace(asked, roles=nobody))
