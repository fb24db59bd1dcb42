"""The reader as stages use it: life cycle, modes, checkpoints, generation, presets."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import torch
import yaml
from reader_world import ANSWERS, FAMILIES, TEXTS, answer_rows, prompts, reader, tiny

from medrag_lightning.interfaces import Processor, Reader
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.lora import LoraSettings

PRESETS = sorted(Path(__file__).parents[2].joinpath("configs", "readers").glob("*.yaml"))


def prepared(**settings: Any) -> HfReader:
    made = HfReader(tiny("llava", **settings.pop("tiny", {})), **settings)
    made.prepare(TEXTS)
    return made


def test_it_is_a_reader_and_says_so_before_it_has_weights() -> None:
    made = HfReader(tiny("llava"))
    with pytest.raises(RuntimeError, match="prepare"):
        _ = made.processor
    made.prepare(TEXTS)
    assert isinstance(made, Reader)
    assert isinstance(made.processor, Processor)
    core = made.core
    made.prepare(["other texts"])
    assert made.core is core


def test_description_survives_json_and_restores_weights_exactly() -> None:
    made = prepared(adapter=LoraSettings(rank=2))
    trained = {n: torch.randn_like(p) for n, p in made.named_parameters() if p.requires_grad}
    made.load_state_dict(trained, strict=False)
    again = HfReader(tiny("llava"), adapter=LoraSettings(rank=2))
    again.restore(json.loads(json.dumps(made.describe())))
    assert again.fingerprint() != made.fingerprint()
    assert not again.load_state_dict(trained, strict=False).unexpected_keys
    assert again.fingerprint() == made.fingerprint()
    again.restore(made.describe())  # a second time: checked, nothing is rebuilt
    assert again.fingerprint() == made.fingerprint()


def test_restore_refuses_another_adapter_or_backbone() -> None:
    description = prepared(adapter=LoraSettings(rank=2)).describe()
    with pytest.raises(ValueError, match="adapter: checkpoint"):
        HfReader(tiny("llava"), adapter=LoraSettings(rank=4)).restore(description)
    with pytest.raises(ValueError, match=r"layers: checkpoint 2, here 3"):
        HfReader(tiny("llava", layers=3), adapter=LoraSettings(rank=2)).restore(description)


def test_restore_replaces_a_reader_that_was_prepared_on_other_texts() -> None:
    made, other = prepared(), HfReader(tiny("llava"))
    other.prepare(["quite different texts"] * 3)
    other.restore(made.describe())
    assert other.fingerprint() == made.fingerprint()


def test_fingerprint_follows_weights_and_settings() -> None:
    made = prepared()
    before = made.fingerprint()
    assert before == prepared().fingerprint()
    with torch.no_grad():
        next(made.parameters()).view(-1)[0] += 1e-3
    assert made.fingerprint() != before
    assert prepared(freeze="vision").fingerprint() != before


@pytest.mark.parametrize("freeze", ["nothing", "vision", "all_but_adapter"])
def test_what_is_frozen_gets_no_gradient_and_stays_in_evaluation_mode(freeze: str) -> None:
    made = prepared(freeze=freeze).train()
    vision = [n for n, p in made.named_parameters() if ".vision_tower." in n and p.requires_grad]
    language = [n for n, p in made.named_parameters() if ".language_model." in n and p.requires_grad]
    assert bool(vision) == (freeze == "nothing")
    assert bool(language) == (freeze != "all_but_adapter")
    tower = made.core.model.vision_tower
    assert tower.training == (freeze == "nothing")
    assert made.core.model.language_model.training == (freeze != "all_but_adapter")
    assert not any(module.training for module in made.eval().modules())


def test_frozen_base_keeps_its_dropout_off_while_the_adapter_drops() -> None:
    base_drops = prepared(tiny={"dropout": 0.5}, adapter=LoraSettings(rank=2)).train()
    encoded, rows = base_drops.processor.encode_prompts(prompts()), answer_rows(base_drops, [0, 1], ["yes", "mild"])
    assert base_drops.token_logp(encoded, rows).equal(base_drops.token_logp(encoded, rows))
    adapter_drops = prepared(adapter=LoraSettings(rank=2, dropout=0.5)).train()
    with torch.no_grad():
        for name, parameter in adapter_drops.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    assert not adapter_drops.token_logp(encoded, rows).equal(adapter_drops.token_logp(encoded, rows))
    adapter_drops.eval()
    assert adapter_drops.token_logp(encoded, rows).equal(adapter_drops.token_logp(encoded, rows))


@pytest.mark.parametrize("family", FAMILIES[:3])
@pytest.mark.parametrize("adapter", [None, LoraSettings(rank=2, projector=True)])
def test_gradient_checkpointing_gives_the_same_gradients(family: str, adapter: LoraSettings | None) -> None:
    gradients = []
    for checkpointing in (False, True):
        made = HfReader(tiny(family), adapter=adapter, gradient_checkpointing=checkpointing)
        made.prepare(TEXTS)
        made.train()
        calls = _count_layer_calls(made)
        rows = answer_rows(made, [0, 1, 2, 3, 4], ["yes"] * 5)
        (-made.token_logp(made.processor.encode_prompts(prompts()), rows).sum()).backward()
        assert calls[0] == (2 if checkpointing else 1)  # the second call recomputes
        gradients.append([p.grad for p in made.parameters() if p.requires_grad])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, atol=1e-6, rtol=1e-4)


def _count_layer_calls(made: HfReader) -> list[int]:
    calls = [0]
    tower = getattr(made.core.model, made.family.language)

    def count(*_: object) -> None:
        calls[0] += 1

    tower.layers[0].self_attn.register_forward_pre_hook(count)
    return calls


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_without_images_gives_every_trained_weight_a_gradient(family: str) -> None:
    made = reader(family).train()
    rows = answer_rows(made, [0], ["yes"])
    (-made.token_logp(made.processor.encode_prompts([prompts()[2]]), rows).sum()).backward()
    assert [n for n, p in made.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_with_images_does_so_too(family: str) -> None:
    made = reader(family).train()
    rows = answer_rows(made, [0], ["yes"])
    (-made.token_logp(made.processor.encode_prompts([prompts()[0]]), rows).sum()).backward()
    assert [n for n, p in made.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_is_greedy_quiet_and_independent_of_the_batch(family: str) -> None:
    made, asked = reader(family), prompts()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        together = made.generate(made.processor.encode_prompts(asked), 4)
    for prompt, ids in zip(asked, together, strict=True):
        (alone,) = made.generate(made.processor.encode_prompts([prompt]), 4)
        assert made.processor.decode(alone) == made.processor.decode(ids)
        encoded = made.processor.encode_prompts([prompt])
        first = max(range(len(made.processor.tokenizer)), key=lambda token: _first_logp(made, encoded, token))
        assert ids[0] == first


def _first_logp(made: HfReader, encoded: Any, token: int) -> float:
    from medrag_lightning.batches import AnswerRows

    if not hasattr(made, "_cached") or made._cached[0] is not encoded:
        count = len(made.processor.tokenizer)
        rows = AnswerRows(
            torch.arange(count)[:, None], torch.ones(count, 1, dtype=torch.bool), torch.zeros(count, dtype=torch.long)
        )
        with torch.no_grad():
            object.__setattr__(made, "_cached", (encoded, made.token_logp(encoded, rows)))
    return float(made._cached[1][token, 0])  # type: ignore[union-attr, operator]


def test_a_reader_learns_its_answers() -> None:
    made = prepared(tiny={"vocabulary": 400}).train()
    encoded, rows = made.processor.encode_prompts(prompts()), answer_rows(made, [0, 1, 2, 3, 4], [*ANSWERS, "yes", "mild"])
    optimizer = torch.optim.AdamW(made.parameters(), lr=5e-3)
    for _ in range(60):
        loss = -made.token_logp(encoded, rows).sum() / rows.mask_RL.sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.1
    decoded = [made.processor.decode(ids) for ids in made.eval().generate(encoded, 8)]
    assert decoded == [*ANSWERS, "yes", "mild"]


def test_contradicting_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="contradicts the adapter"):
        HfReader(tiny("llava"), adapter=LoraSettings(), freeze="vision")


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_are_readers(path: Path) -> None:
    preset = yaml.safe_load(path.read_text())
    assert set(preset) - {"trainer"} == {"model"}
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--reader", type=Reader)
    made = parser.instantiate(parser.parse_object(preset["model"]["init_args"])).reader
    assert isinstance(made, HfReader)
    assert (made.adapter is None) == (path.stem in ("tiny", "mini"))


def test_there_is_a_preset_for_every_family_of_the_readme() -> None:
    families = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava", "idefics3", "smolvlm", "pixtral", "mistral3", "gemma3"}
    tuned = {"tiny_tuned", "mini_tuned", "qwen2_vl_tuned"}
    assert {path.stem for path in PRESETS} == families | {"tiny", "mini"} | tuned


@pytest.mark.parametrize("name", ["tiny", "mini", "qwen2_vl"])
def test_a_preset_to_be_tuned_stands_on_the_one_that_is_trained_first(name: str) -> None:
    first, second = (yaml.safe_load((PRESETS[0].parent / f"{name}{end}.yaml").read_text()) for end in ("", "_tuned"))
    one, two = (preset["model"]["init_args"]["reader"]["init_args"] for preset in (first, second))
    inner = two["backbone"]["init_args"]
    assert (inner["backbone"], inner["adapter"]) == (one["backbone"], one["adapter"])
    assert second.get("trainer") == first.get("trainer")
