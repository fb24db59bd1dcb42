"""Which layers get an adapter, in every family."""

from __future__ import annotations

import re

import pytest
import torch
from reader_world import FAMILIES, TEXTS, tiny

from medrag_lightning.models.families import family_of
from medrag_lightning.models.lora import LoraSettings, add_adapter, target_pattern, train_adapter_only


def adapted(family: str, settings: LoraSettings) -> tuple[torch.nn.Module, set[str]]:
    model = tiny(family).load(TEXTS).model
    made = add_adapter(model, family_of(model.config.model_type), settings)
    return made, {name for name, p in made.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("family", FAMILIES)
def test_language_tower_alone_by_default(family: str) -> None:
    _, trained = adapted(family, LoraSettings())
    towers = family_of(family)
    assert trained
    assert all(f".{towers.language}." in name and ".lora_" in name and ".reader." in name for name in trained)
    layers = {re.sub(r".*\.(\w+)\.lora_.*", r"\1", name) for name in trained}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize("family", FAMILIES)
def test_vision_tower_and_projector_on_request(family: str) -> None:
    _, trained = adapted(family, LoraSettings(vision=True, language=False, projector=True))
    towers = family_of(family)
    projectors = {name for name in trained if set(name.split(".")) & set(towers.projectors)}
    assert projectors
    assert all(".modules_to_save.reader." in name for name in projectors)
    assert all(f".{towers.vision}." in name and ".lora_" in name for name in trained - projectors)
    assert not any(f".{towers.language}." in name or "patch_embed" in name for name in trained)


def test_named_targets_and_unknown_ones() -> None:
    _, trained = adapted("llava", LoraSettings(targets=["q_proj", "v_proj"]))
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trained} == {"q_proj", "v_proj"}
    model = tiny("llava").load(TEXTS).model
    with pytest.raises(ValueError, match=r"\['qkv'\] are not linear layers of language_model; there are: \['down_proj'"):
        target_pattern(model, family_of("llava"), LoraSettings(targets=["qkv"]))


def test_adapter_starts_at_the_base_and_from_its_own_seed() -> None:
    torch.manual_seed(5)
    one, names = adapted("llava", LoraSettings())
    drawn = torch.rand(2)
    torch.manual_seed(5)
    assert torch.rand(2).equal(drawn)
    two, _ = adapted("llava", LoraSettings())
    other, _ = adapted("llava", LoraSettings(seed=1))
    first, second, third = (dict(m.named_parameters()) for m in (one, two, other))
    assert all(first[n].equal(second[n]) for n in names)
    assert not all(first[n].equal(third[n]) for n in names)
    assert not any(first[n].any() for n in names if "lora_B" in n)


def test_only_the_adapter_is_put_in_training_mode() -> None:
    made, _ = adapted("llava", LoraSettings(dropout=0.5, projector=True))
    train_adapter_only(made, True)
    training = {name for name, module in made.named_modules() if module.training}
    assert training
    assert all("lora_dropout" in name or "modules_to_save" in name for name in training)
    train_adapter_only(made, False)
    assert not any(module.training for module in made.modules())


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"rank": 0}, "rank >= 1"), ({"language": False}, "adapts no tower"), ({"targets": []}, "targets are empty")],
)
def test_impossible_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoraSettings(**settings)  # type: ignore[arg-type]
