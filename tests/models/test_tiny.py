"""Random readers: reproducible, independent of the global random stream, and refused where they contradict a checkpoint."""

from __future__ import annotations

import json

import pytest
import torch
from reader_world import FAMILIES, TEXTS, tiny

from medrag_lightning.models.backbones import Backbone


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_depend_on_seed_and_texts_alone(family: str) -> None:
    torch.manual_seed(1)
    one = tiny(family).load(TEXTS).model.state_dict()
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.rand(3).equal(after)  # building drew nothing from the global stream
    two = tiny(family).load(TEXTS).model.state_dict()
    other = tiny(family, seed=1).load(TEXTS).model.state_dict()
    assert all(one[name].equal(two[name]) for name in one)
    assert not all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_description_is_json_and_rebuilds_the_same_model(family: str) -> None:
    backbone = tiny(family)
    assert isinstance(backbone, Backbone)
    loaded = backbone.load(TEXTS)
    again = tiny(family).reload(json.loads(json.dumps(backbone.describe(loaded))))
    assert backbone.describe(again) == backbone.describe(loaded)
    mine, theirs = loaded.model.state_dict(), again.model.state_dict()
    assert all(mine[name].equal(theirs[name]) for name in mine)


def test_a_description_of_another_shape_is_refused() -> None:
    backbone = tiny("llava")
    description = backbone.describe(backbone.load(TEXTS))
    with pytest.raises(ValueError, match=r"hidden: checkpoint 32, here 64; seed: checkpoint 0, here 3"):
        tiny("llava", hidden=64, seed=3).reload(description)


def test_a_word_has_one_token_in_a_report_and_as_an_answer() -> None:
    processor = tiny("llava", vocabulary=600).load(["effusion noted", "large effusion"] * 5).processor
    (answer,) = processor.encode_answers(["effusion"])
    assert answer[0] in processor.tokenizer("a large effusion", add_special_tokens=False)["input_ids"]
    assert len(answer) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 30, "heads": 4}, "even number"),
        ({"vision_hidden": 20}, "multiple of 8"),
        ({"image_side_px": 40}, "multiple of an even patch_px"),
        ({"vocabulary": 100}, "at least 300"),
        ({"dropout": 1.0}, r"\[0, 1\)"),
    ],
)
def test_impossible_shapes_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny("llava", **settings)


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match="family must be one of llava"):
        tiny("bert")
