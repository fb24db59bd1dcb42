"""Prompts of a pack are one sequence, and every log-probability and every gradient stays that of a row by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from reader_world import FAMILIES, TEXTS, answer_rows, picture, reader, tiny
from torch import Tensor

from medrag_lightning.batches import AnswerRows, EncodedPrompts, Example, Prompt, Steering
from medrag_lightning.models import hf_reader, scoring, tree_scoring
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.lora import LoraSettings
from medrag_lightning.prompts import PromptOrder, PromptTemplate
from medrag_lightning.records import Candidate, Channel, Document, ImageRef, Query, Regime

REPORTS = ("chest x-ray shows a large effusion on the left", "no finding", "mild " * 9, "a nodule")
Asked = tuple[int | None, tuple[int, ...]]  # the query's image, the evidence
Case = tuple[list[Asked], list[int], list[tuple[int, str]]]  # prompts, pack of each, (prompt, answer) rows

ROWS: list[tuple[int, str]] = [(0, "yes"), (0, "no large effusion"), (1, "yes"), (2, "mild"), (2, "mild effusion")]
CASES: dict[str, Case] = {
    "two answers": ([(0, (0,)), (1, (1, 2)), (None, (3,))], [0, 1, 2], ROWS),
    "other image": ([(0, (0, 1)), (1, (0, 1)), (2, (3,)), (3, (3,))], [7, 7, 3, 3], [*ROWS, (3, "no")]),
    "no image": ([(0, (0, 1)), (None, (0, 1)), (2, (3,)), (None, ())], [0, 0, 1, 1], [*ROWS, (3, "no")]),
    "other evidence": ([(0, (0, 1)), (0, (0, 2)), (0, (2, 3)), (0, ()), (1, (1,))], [5, 5, 5, 5, 1], [*ROWS, (4, "x")]),
}


def asked(case: str, order: PromptOrder) -> list[Prompt]:
    template, pictures = PromptTemplate(order=order), [picture(i, (40, 32) if i % 2 else (32, 64)) for i in range(8)]
    made = []
    for image, evidence in CASES[case][0]:
        query = Query("q", "is there a nodule?", answer="yes")
        refs = [ImageRef("e.png") if k != 3 else None for k in evidence]
        documents = [Document(f"d{k}", REPORTS[k], ref) for k, ref in zip(evidence, refs, strict=True)]
        shown = tuple(Candidate(document, 0.5, Channel.IMAGE_TO_IMAGE) for document in documents)
        images = tuple(r and pictures[4 + k] for k, r in zip(evidence, refs, strict=True))
        regime = Regime.RETRIEVED if evidence else Regime.NONE
        made.append(template.build(Example(query, regime, shown, None if image is None else pictures[image], images)))
    return made


def packs_and_rows(made: HfReader, case: str, order: PromptOrder) -> tuple[EncodedPrompts, EncodedPrompts, AnswerRows]:
    """The same prompts as packs with shared images, and each by itself with its own pixels; and the answers."""
    _, packs, answers = CASES[case]
    prompts = asked(case, order)
    packed = replace(made.processor.encode_prompts(prompts, share_images=True), pack_of_prompt=tuple(packs))
    rows = answer_rows(made, [p for p, _ in answers], [text for _, text in answers])
    return packed, made.processor.encode_prompts(prompts), rows


def gradients(made: HfReader, prompts: EncodedPrompts, rows: AnswerRows) -> tuple[Tensor, dict[str, Tensor]]:
    made.zero_grad()
    logp_RL = made.token_logp(prompts, rows)
    weights = torch.linspace(-1, 2, logp_RL.numel(), dtype=logp_RL.dtype).view_as(logp_RL)
    (logp_RL * weights).sum().backward()
    return logp_RL.detach(), {n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None}


def in_float64(made: HfReader) -> HfReader:
    """In double precision throughout: the stock norms would go down to single."""
    made.core.double()
    for module in made.core.modules():
        if type(module).__name__.endswith("RMSNorm"):
            eps = module.variance_epsilon
            module.forward = lambda x, m=module, e=eps: m.weight * x * (x.square().mean(-1, keepdim=True) + e).rsqrt()
    return made


def in_their_type(prompts: EncodedPrompts) -> EncodedPrompts:
    return replace(prompts, vision={n: v.double() if v.is_floating_point() else v for n, v in prompts.vision.items()})


def language_tokens(made: HfReader) -> list[int]:
    tokens: list[int] = []
    tower: Any = getattr(made.core.model, made.family.language)
    tower.layers[0].register_forward_pre_hook(
        lambda module, inputs: tokens.append(inputs[0].shape[0] * inputs[0].shape[1])
    )
    return tokens


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("order", get_args(PromptOrder))
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_all_gradients_are_those_of_rows(family: str, order: PromptOrder, case: str) -> None:
    made = in_float64(reader(family)).train()
    packed, plain, rows = packs_and_rows(made, case, order)
    packed, plain = in_their_type(packed), in_their_type(plain)
    tokens = language_tokens(made)
    logp_RL, found = gradients(made, packed, rows)
    computed = sum(tokens)
    expected_RL, expected = gradients(made, plain, rows)
    assert logp_RL.dtype == torch.float64
    torch.testing.assert_close(logp_RL, expected_RL, atol=1e-10, rtol=0)
    assert found.keys() == expected.keys()
    largest = max(g.abs().max() for g in expected.values())
    for name, gradient in expected.items():
        within = 1e-10 if f".{made.family.language}." in name else 1e-6  # Qwen's vision rotates in single precision
        assert (found[name] - gradient).abs().max() <= within * max(gradient.abs().max(), 1e-3 * largest), name
    assert computed < sum(tokens) - computed


@pytest.mark.parametrize("family", FAMILIES)
def test_in_single_precision_and_with_an_adapter(family: str) -> None:
    made = adapted(family)
    packed, plain, rows = packs_and_rows(made, "other image", "evidence_first")
    logp_RL, found = gradients(made, packed, rows)
    expected_RL, expected = gradients(made, plain, rows)
    assert logp_RL.dtype == torch.float32
    torch.testing.assert_close(logp_RL, expected_RL, atol=1e-5, rtol=0)
    assert found.keys() == expected.keys() == {n for n, p in made.named_parameters() if p.requires_grad}
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def adapted(family: str, dropout: float = 0.0, **settings: Any) -> HfReader:
    """With an adapter that does something from the start."""
    adapter = settings.pop("adapter", LoraSettings(rank=2, dropout=dropout))
    made = HfReader(tiny(family), adapter=adapter, **settings)
    made.prepare(TEXTS)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return made.train()


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_computes_the_same_again(family: str) -> None:
    packed, _, rows = packs_and_rows(adapted(family), "other image", "evidence_first")
    expected_RL, expected = gradients(adapted(family), packed, rows)
    logp_RL, found = gradients(adapted(family, gradient_checkpointing=True), packed, rows)
    torch.testing.assert_close(logp_RL, expected_RL, atol=1e-6, rtol=0)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5 * float(gradient.abs().max()), rtol=0)


def test_another_attention_prompts_without_shared_images_and_padding_give_the_same() -> None:
    made = adapted("llava")
    packed, plain, rows = packs_and_rows(made, "other image", "evidence_first")
    expected_RL, expected = gradients(made, packed, rows)
    pad = torch.zeros(len(packed.ids_PT), 3, dtype=torch.long)
    padded = replace(packed, ids_PT=torch.cat([pad, packed.ids_PT], 1), mask_PT=torch.cat([pad, packed.mask_PT], 1))
    own = replace(plain, pack_of_prompt=packed.pack_of_prompt)
    one = replace(packed, pack_of_prompt=(0,) * len(packed.ids_PT))
    found = [gradients(made, prompts, rows) for prompts in (padded, own, one)]
    for attention in ("eager", "medrag_ifa"):
        made.core.set_attn_implementation({"text_config": attention})
        found.append(gradients(made, packed, rows))
    for logp_RL, gradient in found:
        torch.testing.assert_close(logp_RL, expected_RL, atol=1e-5, rtol=0)
        torch.testing.assert_close(gradient, expected, atol=1e-3, rtol=1e-4)


def test_dropout_of_the_adapter_runs() -> None:
    made = adapted("llava", dropout=0.5)
    packed, _, rows = packs_and_rows(made, "other image", "evidence_first")
    assert not gradients(made, packed, rows)[0].equal(gradients(made, packed, rows)[0])
    assert made.eval().token_logp(packed, rows).equal(made.token_logp(packed, rows))


def test_half_precision_runs_under_autocast() -> None:
    made = adapted("llava")
    packed, plain, rows = packs_and_rows(made, "other image", "evidence_first")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logp_RL, _ = gradients(made, packed, rows)
        expected_RL, _ = gradients(made, plain, rows)
    assert logp_RL.dtype == torch.float32
    torch.testing.assert_close(logp_RL, expected_RL, atol=0.3, rtol=0.05)


def test_what_is_not_supported_is_computed_in_rows_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    made = adapted("llava")
    packed, plain, rows = packs_and_rows(made, "other image", "evidence_first")
    expected_RL, _ = gradients(made, replace(packed, pack_of_prompt=()), rows)
    with monkeypatch.context() as patched:
        for module in (hf_reader, scoring):
            patched.setattr(module, "supports_tree", lambda model, family: False)
        assert gradients(made, packed, rows)[0].equal(expected_RL)
        with pytest.raises(ValueError, match="proven exact"):
            scoring.token_logp(made.core, made.family, packed, rows, "packed", [])
    with monkeypatch.context() as patched:
        untested = replace(made.family, answer_tree=False)
        patched.setattr(HfReader, "family", property(lambda self: untested))
        own_RL, _ = gradients(made, replace(plain, pack_of_prompt=packed.pack_of_prompt), rows)
        assert own_RL.equal(gradients(made, plain, rows)[0])
        torch.testing.assert_close(gradients(made, packed, rows)[0], expected_RL, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="2 packs are named for 4 prompts"):
        made.token_logp(replace(packed, pack_of_prompt=(0, 1)), rows)


def test_steered_prompts_are_computed_in_rows() -> None:
    made = adapted("llava")
    prompts = asked("other image", "evidence_first")
    encoded = made.processor.encode_prompts(prompts, share_images=True, roles=True)
    encoded = replace(encoded, steering=Steering("knockout", [0]))
    rows = answer_rows(made, [0, 1], ["yes", "no"])
    packed_RL = made.token_logp(replace(encoded, pack_of_prompt=(0, 0, 1, 1)), rows)
    assert packed_RL.equal(made.token_logp(encoded, rows))
    assert tree_scoring.supports_tree(made.core, made.family)


def test_features_are_kept_between_steps_unless_the_image_path_is_trained() -> None:
    made = adapted("llava")
    packed, plain, rows = packs_and_rows(made, "other image", "evidence_first")
    for _ in range(2):
        gradients(made.train(), packed, rows)
    assert made.vision_cache.computed == len(packed.image_keys)
    with torch.inference_mode():
        made.eval().token_logp(packed, rows)
    gradients(made.train(), packed, rows)  # an evaluation in between takes nothing away
    assert made.vision_cache.computed == 2 * len(packed.image_keys)
    some = [i for i, p in enumerate(CASES["other image"][2]) if p[0] == 0]
    alone = scoring.select_prompts(made.family, packed, [0])
    few = AnswerRows(rows.ids_RL[some], rows.mask_RL[some], rows.prompt_of_row_R[some])
    torch.testing.assert_close(made.token_logp(alone, few), made.token_logp(plain, few), atol=1e-5, rtol=0)
    trained = adapted("llava", adapter=LoraSettings(rank=2, projector=True))
    calls: list[int] = []
    tower: Any = trained.core.model.vision_tower
    tower.register_forward_hook(lambda module, inputs, output: calls.append(len(output.last_hidden_state)))
    logp_RL, found = gradients(trained, packed, rows)
    assert calls == [len(packed.image_keys)]
    assert not len(trained.vision_cache)
    expected_RL, expected = gradients(trained, plain, rows)
    torch.testing.assert_close(logp_RL, expected_RL, atol=1e-5, rtol=0)
    assert any("multi_modal_projector" in name for name in found)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
