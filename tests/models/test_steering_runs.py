"""Steering through what surrounds it: beams, chunks, windows, gradients, adapters, checkpoints; and what is refused."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from reader_world import ANSWERS, TEXTS, answer_rows, prompts, tiny
from steering_world import STEERINGS, by_hand, reference_logits, world
from transformers import DynamicCache

from medrag_lightning.batches import EncodedPrompts, Role, Steering, TokenRoles
from medrag_lightning.models import scoring, steering
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.lora import LoraSettings
from medrag_lightning.models.steering import steered
from medrag_lightning.models.tree_scoring import supports_tree

TOLERANCE_NATS = 1e-4


def no_images(asked: EncodedPrompts) -> EncodedPrompts:
    """Prompt 2, which shows none, twice; the second with other scores."""
    row = torch.tensor([2, 2])
    strength = torch.tensor([[0.9, 0.2, 0.5], [0.1, 0.4, 0.3]])
    roles = replace(asked.roles.of_prompts(row), strength_PK=strength)  # type: ignore[union-attr]
    return replace(asked, ids_PT=asked.ids_PT[row], mask_PT=asked.mask_PT[row], vision={}, images_of_prompt=(), roles=roles)


@pytest.mark.parametrize("name", ["paper", "generated"])
def test_beams_equal_manual_expansion(name: str) -> None:
    made, asked = world("llava", STEERINGS[name])
    two, settings = no_images(asked), {"max_new_tokens": 4, "do_sample": False, "eos_token_id": -1}
    with torch.no_grad(), steered(made.core, made.family, two):
        out = made.core.generate(
            **scoring.model_inputs(made.core, made.family, two), num_beams=3, num_return_sequences=3,
            output_scores=True, return_dict_in_generate=True, **settings,
        )  # fmt: skip
    width = two.ids_PT.shape[1]
    rows = answer_rows(made, [0, 0, 0, 1, 1, 1], ["x"] * 6)
    answers = replace(rows, ids_RL=out.sequences[:, width:], mask_RL=torch.ones(6, 4, dtype=torch.bool))
    with torch.no_grad():
        logp_RL = scoring.token_logp(made.core, made.family, two, answers, "rows")
    torch.testing.assert_close(out.sequences_scores, logp_RL.sum(1) / 4, atol=TOLERANCE_NATS, rtol=0)


@pytest.mark.parametrize("name", ["paper", "mass_preserving", "pai"])
def test_a_prompt_read_in_chunks(name: str) -> None:
    made, asked = world("llava", STEERINGS[name])
    two, cache, parts = no_images(asked), DynamicCache(config=made.core.config.get_text_config()), []
    place = scoring.positions(made.core, made.family, two)
    with torch.no_grad(), steered(made.core, made.family, two):
        whole = made.core(input_ids=two.ids_PT, attention_mask=two.mask_PT, position_ids=place).logits
        for start in range(0, two.ids_PT.shape[1], 7):
            part = slice(start, start + 7)
            mask = two.mask_PT[:, : start + 7]
            parts.append(made.core(input_ids=two.ids_PT[:, part], attention_mask=mask, position_ids=place[:, part],
                                   past_key_values=cache).logits)  # fmt: skip
    real = two.mask_PT > 0
    assert (torch.cat(parts, 1)[real] - whole[real]).abs().max() <= TOLERANCE_NATS


@pytest.mark.parametrize("name", ["paper", "mass_preserving", "pasta", "knockout", "knockout last", "generated"])
def test_sliding_windows(name: str) -> None:
    made, asked = world("llava", STEERINGS[name])
    text = made.core.config.text_config
    text.use_sliding_window, text.sliding_window, text.layer_types = True, 24, ["sliding_attention", "full_attention"]
    tower = made.core.model.language_model
    tower.has_sliding_layers = True
    tower.layers[0].self_attn.sliding_window, tower.layers[0].self_attn.layer_type = 24, "sliding_attention"
    if hasattr(tower.layers[0], "attention_type"):
        tower.layers[0].attention_type = "sliding_attention"
    rows = answer_rows(made, [0, 3], [ANSWERS[1], ANSWERS[1]])
    for mode in ("rows", "prefill"):
        logp_RL = scoring.token_logp(made.core, made.family, asked, rows, mode).detach()
        for r, p in enumerate((0, 3)):
            ids = rows.ids_RL[r, rows.mask_RL[r]].tolist()
            logits, _ = reference_logits(made, asked, p, ids)
            expected = logits.log_softmax(-1)[-len(ids) - 1 : -1].gather(-1, torch.tensor(ids)[:, None]).squeeze(-1)
            assert (logp_RL[r, : len(ids)] - expected).abs().max() <= TOLERANCE_NATS


def gradients(name: str, checkpointed: bool) -> dict[str, torch.Tensor]:
    made, asked = world("llava", STEERINGS[name])
    torch.manual_seed(0)
    again = HfReader(tiny("llava"), gradient_checkpointing=checkpointed, learned_steering=name == "learned")
    again.prepare(TEXTS)
    again.core.load_state_dict(made.core.state_dict())
    again.train()
    mix_M = torch.tensor([0.3, 0.7], requires_grad=True)  # scores are a mixture, as learned fusion makes them
    parts_PKM = torch.stack([asked.roles.strength_PK, asked.roles.strength_PK.flip(1) ** 2], -1)  # type: ignore[union-attr]
    roles = replace(asked.roles, strength_PK=parts_PKM @ mix_M)  # type: ignore[type-var]
    rows = answer_rows(again, [0, 1, 2, 3, 4], [ANSWERS[i] for i in (0, 1, 2, 1, 0)])
    again.token_logp(replace(asked, roles=roles), rows).sum().backward()
    found = {n: p.grad for n, p in again.named_parameters() if p.grad is not None}
    return {**found, "mix": mix_M.grad}  # type: ignore[dict-item]


@pytest.mark.parametrize("name", ["paper", "learned", "mass_preserving"])
def test_gradients_with_checkpointing_are_those_without(name: str) -> None:
    plain, checkpointed = gradients(name, False), gradients(name, True)
    assert set(plain) == set(checkpointed)
    assert plain["mix"].abs().min() > 0
    assert ("steering_factor_L" in plain) == (name == "learned")
    for key, gradient in plain.items():
        torch.testing.assert_close(checkpointed[key], gradient, atol=1e-5, rtol=1e-4, msg=key)


def test_gradient_of_strength_is_the_slope() -> None:
    made, asked = world("llava", STEERINGS["paper"])
    rows = answer_rows(made, [0, 1], [ANSWERS[0], ANSWERS[1]])
    made.double()
    vision = {name: value.double() for name, value in asked.vision.items()}

    def total(score: torch.Tensor) -> torch.Tensor:
        roles = replace(asked.roles, strength_PK=score)  # type: ignore[type-var]
        return scoring.token_logp(made.core, made.family, replace(asked, roles=roles, vision=vision), rows).sum()

    score = asked.roles.strength_PK.clone().requires_grad_()  # type: ignore[union-attr]
    slope = torch.autograd.grad(total(score), score)[0][0, 2]
    step = torch.zeros_like(score.detach())
    step[0, 2] = 1e-2
    measured = (total(score.detach() + step) - total(score.detach() - step)) / 2e-2
    assert abs(slope - measured) <= 0.02 * abs(slope)


def test_the_factor_is_trained_kept_and_part_of_the_fingerprint() -> None:
    made = HfReader(tiny("llava"), freeze="all_but_adapter", learned_steering=True)
    made.prepare(TEXTS)
    assert [n for n, p in made.named_parameters() if p.requires_grad] == ["steering_factor_L"]
    assert "steering_factor_L" in made.state_dict()
    encoded = made.processor.encode_prompts(prompts())
    asked = replace(encoded, roles=by_hand(encoded), steering=Steering("learned", "all"))
    rows = answer_rows(made, [0], [ANSWERS[0]])
    with torch.no_grad():
        start = made.token_logp(asked, rows)
        assert torch.equal(start, made.token_logp(replace(asked, steering=Steering("paper", "all")), rows))
        before = made.fingerprint()
        made.steering_factor_L[0] = 3.0  # type: ignore[index]
        assert made.fingerprint() != before
        assert not torch.equal(made.token_logp(asked, rows), start)
    loss = made.train().token_logp(encoded, rows).sum()  # prompts that nobody steers
    assert torch.autograd.grad(loss, made.steering_factor_L)[0].abs().max() == 0  # type: ignore[arg-type]
    plain = HfReader(tiny("llava"), freeze="all_but_adapter")
    with pytest.raises(ValueError, match="learned_steering"):
        plain.restore(made.describe())


def test_with_an_adapter_and_shared_images() -> None:
    made = HfReader(tiny("llava"), adapter=LoraSettings())
    made.prepare(TEXTS)
    made.eval()
    rows = answer_rows(made, [0, 1, 2, 3, 4], [ANSWERS[1]] * 5)
    scores = []
    for share in (False, True):
        encoded = made.processor.encode_prompts(prompts(), share_images=share)
        asked = replace(encoded, roles=by_hand(encoded), steering=Steering("paper", "all", gain=4.0))
        with torch.no_grad():
            scores.append(made.token_logp(asked, rows))
            assert made.generate(asked, 3) is not None
    torch.testing.assert_close(*scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "pasta"}, "between 0 and 1"),
        ({"policy": "knockout", "gain": 2.0}, "gain 2.0 would be ignored"),
        ({"policy": "paper", "direction": "evidence_to_last"}, "direction would be ignored"),
        ({"policy": "paper", "heads": [0]}, "heads would be ignored"),
        ({"policy": "pasta", "gain": 0.1, "heads": []}, "must name heads"),
    ],
)
def test_contradicting_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Steering(layers="all", **settings)


@pytest.mark.parametrize("layers", [[1], [0, 1]])
def test_the_last_layer_alone_is_warned_of(layers: list[int], caplog: pytest.LogCaptureFixture) -> None:
    """Its question rows reach no later row, so no answer depends on them."""
    made, asked = world("llava", Steering("paper", layers))
    steering._warn_of_last_layer.cache_clear()
    rows = answer_rows(made, [0], [ANSWERS[1]])
    with caplog.at_level(logging.WARNING), torch.no_grad():
        changed = scoring.token_logp(made.core, made.family, asked, rows)
        stock = scoring.token_logp(made.core, made.family, replace(asked, steering=None), rows)
    assert (len(caplog.records) == 1) == torch.equal(changed, stock) == (layers == [1])


def test_only_the_language_tower_changes_its_attention() -> None:
    made, asked = world("llava", STEERINGS["paper"])
    made.token_logp(asked, answer_rows(made, [0], ["yes"]))
    assert made.core.config.text_config._attn_implementation == "medrag_ifa"
    assert made.core.config.vision_config._attn_implementation == "sdpa"
    assert made.core.config._attn_implementation == "sdpa"
    tower = made.core.model.language_model
    assert not tower._forward_pre_hooks


def test_a_reader_that_was_steered_once_scores_as_before() -> None:
    """By the answer tree again, and with the same bits."""
    made, asked = world("llava", None)
    rows = answer_rows(made, [0, 0, 3], [ANSWERS[0], ANSWERS[1], ANSWERS[1]])
    with torch.no_grad():
        before = made.token_logp(asked, rows)
        steered_once = made.token_logp(replace(asked, steering=STEERINGS["paper"]), rows)
        assert supports_tree(made.core, made.family)
        assert torch.equal(made.token_logp(asked, rows), before)
    assert not torch.equal(steered_once, before)


def refused(asked: EncodedPrompts, made: HfReader, message: str) -> None:
    rows = answer_rows(made, [0], ["yes"])
    with pytest.raises(ValueError, match=message):
        made.token_logp(asked, rows)
    with pytest.raises(ValueError, match=message):
        made.generate(asked, 2)


def test_what_would_be_ignored_is_refused() -> None:
    made, asked = world("llava", STEERINGS["paper"])
    roles: Any = asked.roles
    refused(replace(asked, roles=None), made, "roles=True")
    refused(replace(asked, steering=Steering("paper", [2])), made, "names layer 2; the reader has 2")
    refused(replace(asked, steering=Steering("paper", "critical")), made, "critical")
    refused(replace(asked, steering=Steering("pasta", [0], gain=0.1, heads=[2])), made, "head 2")
    refused(replace(asked, steering=Steering("learned", [0])), made, "learned_steering: true")
    turned = TokenRoles(roles.role_PT.flip(1), roles.document_PT.flip(1), roles.strength_PK)
    refused(replace(asked, roles=turned), made, "prompt 0 attention cannot flow evidence -> question.*evidence_first")
    image_first = replace(asked, roles=turned, steering=STEERINGS["knockout image"])
    refused(image_first, made, "cannot flow image -> question")
    none = torch.where(roles.role_PT == list(Role).index(Role.QUESTION), -1, roles.role_PT)
    refused(replace(asked, roles=replace(roles, role_PT=none)), made, "no question token")
    refused(replace(asked, roles=replace(roles, strength_PK=roles.strength_PK / 0)), made, "no finite retrieval score")
    refused(replace(asked, roles=replace(roles, strength_PK=roles.strength_PK[:, :2])), made, "strengths of 2 candidates")


@pytest.mark.parametrize("family", ["llava", "idefics3"])
def test_a_question_before_its_evidence_is_refused(family: str) -> None:
    """With the processor's own roles; nothing flows back to what was read before."""
    made, _ = world(family, None)
    encoded = made.processor.encode_prompts(prompts("query_first"), roles=True)
    for policy in ("paper", "mass_preserving", "pasta", "knockout"):
        settings = {"gain": 0.1} if policy == "pasta" else {}
        refused(replace(encoded, steering=Steering(policy, "all", **settings)), made, "evidence -> question.*evidence_first")  # type: ignore[arg-type]
    blocked = replace(encoded, steering=Steering("knockout", "all", direction="evidence_to_last"))
    rows = answer_rows(made, [0, 2], [ANSWERS[1]] * 2)
    with torch.no_grad():
        assert not torch.equal(made.token_logp(blocked, rows), made.token_logp(encoded, rows))


def test_untested_families_kernels_and_modes_are_refused() -> None:
    made, asked = world("llava", STEERINGS["paper"])
    untested = replace(made.family, steering=False)
    message = r"not tested for family llava; tested: gemma3, idefics3, llava, mistral3, qwen2_5_vl"
    with pytest.raises(ValueError, match=message), steered(made.core, untested, asked):
        pass
    features = made.vision_cache.features(made.core, made.family, asked)
    with pytest.raises(ValueError, match="use mode 'prefill' or 'rows'"):
        scoring.token_logp(made.core, made.family, asked, answer_rows(made, [0], ["yes"]), "tree", features)
    made.core.set_attn_implementation({"text_config": "eager"})
    refused(asked, made, "runs on top of sdpa, and the reader has attn_implementation 'eager'")


def test_one_candidate_or_equal_scores_change_nothing_and_warn_once(caplog: pytest.LogCaptureFixture) -> None:
    made, asked = world("llava", None)
    equal = replace(asked.roles, strength_PK=torch.full((5, 3), 0.4))  # type: ignore[type-var]
    one_document = torch.where(equal.document_PT > 0, -1, equal.document_PT)
    role_PT = torch.where((equal.document_PT > 0), -1, equal.role_PT)
    one = TokenRoles(role_PT, one_document, torch.tensor([[0.3, float("nan"), float("nan")]]).expand(5, -1))
    steering._warn_of_equal_scores.cache_clear()
    rows = answer_rows(made, [0, 1, 2], [ANSWERS[1]] * 3)
    with caplog.at_level(logging.WARNING), torch.no_grad():
        stock = scoring.token_logp(made.core, made.family, asked, rows)
        for roles in (equal, one):
            for policy in ("paper", "centred", "mass_preserving"):
                asked_so = replace(asked, roles=roles, steering=Steering(policy, "all"))  # type: ignore[arg-type]
                assert torch.equal(scoring.token_logp(made.core, made.family, asked_so, rows), stock)
    assert len([r for r in caplog.records if "no effect" in r.message]) == 1


def test_prompts_without_evidence_are_read_as_ever() -> None:
    made, asked = world("llava", None)
    bare = replace(asked.roles, strength_PK=torch.zeros(5, 0), document_PT=torch.full_like(asked.roles.document_PT, -1))  # type: ignore[union-attr, type-var]
    bare = replace(bare, role_PT=torch.where(bare.role_PT == list(Role).index(Role.EVIDENCE_TEXT), -1, bare.role_PT))
    rows = answer_rows(made, [0, 1], [ANSWERS[1]] * 2)
    with torch.no_grad():
        stock = scoring.token_logp(made.core, made.family, asked, rows)
        for name in ("paper", "pasta", "knockout", "centred"):
            steered_so = replace(asked, roles=bare, steering=STEERINGS[name])
            assert torch.equal(scoring.token_logp(made.core, made.family, steered_so, rows), stock)
        assert made.attention_mass(replace(asked, roles=bare)).document_PLK.shape == (5, 2, 0)


def test_half_precision_stays_close() -> None:
    made, asked = world("llava", STEERINGS["paper"])
    rows = answer_rows(made, [0, 1], [ANSWERS[1]] * 2)
    with torch.no_grad():
        exact = made.token_logp(asked, rows)
        made.core.bfloat16()
        vision = {name: value.bfloat16() for name, value in asked.vision.items()}
        half = scoring.token_logp(made.core, made.family, replace(asked, vision=vision), rows)
        plain = scoring.token_logp(made.core, made.family, replace(asked, vision=vision, steering=None), rows)
        stock = scoring.token_logp(made.core.float(), made.family, replace(asked, steering=None), rows)
    assert half.isfinite().all()
    assert (half - exact).abs().mean() <= 2 * (plain - stock).abs().mean()
