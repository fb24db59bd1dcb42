"""What a family's row says about parameters that no forward pass reads."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from medrag_lightning.models.families import family_of, never_read


@pytest.mark.parametrize(("taken", "unread_layers"), [(-1, set()), (-2, {3}), (-3, {2, 3}), (None, set())])
def test_vision_layers_after_the_taken_one_are_never_read(taken: int | None, unread_layers: set[int]) -> None:
    config = SimpleNamespace(vision_feature_layer=taken, vision_config=SimpleNamespace(num_hidden_layers=4))
    name = "model.vision_tower.vision_model.encoder.layers.{}.mlp.fc1.lora_A.reader.weight"
    found = {i for i in range(4) if never_read(config, family_of("llava"), name.format(i))}
    assert found == unread_layers
    assert not never_read(config, family_of("llava"), "model.language_model.layers.3.mlp.up_proj.weight")
    assert never_read(config, family_of("llava"), "model.vision_tower.post_layernorm.weight")


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'bert' is not a known reader family; known: gemma3, "):
        family_of("bert")
