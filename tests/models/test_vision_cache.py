"""Features are computed once for each distinct image, kept while the weights stay, and never while they are trained."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from reader_world import FAMILIES, TEXTS, answer_rows, picture, prompts, reader, tiny

from medrag_lightning.batches import Prompt, Role, Segment
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.lora import LoraSettings
from medrag_lightning.models.vision_cache import VisionCache


def shows(*seeds: int) -> Prompt:
    """Pictures by seed, then a question; every call makes new image objects."""
    pictures = [Segment(Role.EVIDENCE_IMAGE, image=picture(seed)) for seed in seeds]
    return Prompt((*pictures, Segment(Role.QUESTION, "is there a nodule?")))


def scored(made: HfReader, *asked: Prompt) -> torch.Tensor:
    rows = answer_rows(made, list(range(len(asked))), ["yes"] * len(asked))
    with torch.no_grad():
        return made.token_logp(made.processor.encode_prompts(asked, share_images=True), rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_distinct_image_is_computed_once_across_batches(family: str) -> None:
    made = reader(family)
    first = scored(made, shows(0, 1), shows(0, 2), shows(1, 2))
    assert made.vision_cache.computed == len(made.vision_cache) == 3
    again = scored(made, shows(2, 1), shows(0, 1), shows(3))
    assert made.vision_cache.computed == 4
    torch.testing.assert_close(again[1], first[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(again[0], scored(reader(family), shows(2, 1))[0], atol=1e-5, rtol=0)


def test_an_augmented_image_is_another_image() -> None:
    made = reader("llava")
    plain, mirrored = shows(0), picture(0).transpose(0)  # type: ignore[arg-type]  # 0: left to right
    changed = Prompt((Segment(Role.EVIDENCE_IMAGE, image=mirrored), *plain.segments[1:]))
    logp = scored(made, plain, changed)
    assert made.vision_cache.computed == 2
    assert (logp[0] - logp[1]).abs().max() > 1e-3


def one_step(made: HfReader, fused: bool) -> None:
    trained = [p for p in made.core.model.vision_tower.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(trained, lr=0.1, fused=fused).step()


def loaded(made: HfReader) -> None:
    made.load_state_dict({n: v + 0.1 for n, v in made.state_dict().items()}, strict=False)


CHANGES: dict[str, Callable[[HfReader], object]] = {
    "optimizer": lambda made: one_step(made, fused=False),
    "fused optimizer": lambda made: one_step(made, fused=True),
    "loading": loaded,
    "loading the core": lambda made: made.core.load_state_dict({n: v + 0.1 for n, v in made.core.state_dict().items()}),
    "projector": lambda made: torch.nn.init.normal_(next(made.core.model.multi_modal_projector.parameters())),
    "new storage": lambda made: setattr(next(made.core.model.vision_tower.parameters()), "data", torch.zeros(16, 3, 16, 16)),
    "training mode": lambda made: made.train().eval(),
    "restored": lambda made: made.restore({**made.describe(), "backbone": other_backbone()}),
}


def other_backbone() -> object:
    other = HfReader(tiny("llava"))
    other.prepare(["quite different texts"] * 3)
    return other.describe()["backbone"]


@pytest.mark.parametrize("change", CHANGES)
def test_other_weights_forget_old_features(change: str) -> None:
    made = reader("llava")
    scored(made, shows(0))
    CHANGES[change](made)
    found = scored(made, shows(0))
    assert made.vision_cache.computed == 2
    made.vision_cache.clear()
    assert scored(made, shows(0)).equal(found)


def test_features_survive_changes_of_the_language_tower() -> None:
    """A frozen image path with a trained reader: an evaluation keeps what the pass before it has seen."""
    made = reader("llava")
    scored(made, shows(0))
    with torch.no_grad():
        next(made.core.model.language_model.parameters()).mul_(1.1)
    scored(made, shows(0))
    assert made.vision_cache.computed == 1


def test_the_least_recently_used_go_first_and_bytes_are_bounded() -> None:
    made = reader("llava")
    scored(made, shows(0))
    size = made.vision_cache._bytes
    made.vision_cache = VisionCache(2 * size)
    for seed in (0, 1, 0, 2, 0):  # 1 leaves when 2 comes
        scored(made, shows(seed))
    assert made.vision_cache.computed == 3
    scored(made, shows(1))
    assert made.vision_cache.computed == 4
    assert made.vision_cache._bytes == 2 * size
    many = scored(made, shows(3, 4, 5, 6))  # more than is kept: still right
    torch.testing.assert_close(many, scored(reader("llava"), shows(3, 4, 5, 6)), atol=1e-5, rtol=0)
    made.vision_cache = VisionCache(0)
    scored(made, shows(0))
    assert len(made.vision_cache) == 0
    with pytest.raises(ValueError, match="must not be negative"):
        VisionCache(-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_a_trained_path_are_shared_with_their_gradient(family: str) -> None:
    made = reader(family).train()
    rows = answer_rows(made, [0, 1, 3, 4], ["yes"] * 4)
    found = []
    for share in (True, False):
        made.zero_grad()
        logp_RL = made.token_logp(made.processor.encode_prompts(prompts(), share_images=share), rows)
        logp_RL.sum().backward()
        found.append((logp_RL.detach(), [p.grad.clone() for p in made.parameters() if p.grad is not None]))
    assert len(made.vision_cache) == 0
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=0)
    for shared, plain in zip(found[0][1], found[1][1], strict=True):
        assert (shared - plain).norm() <= 1e-4 * plain.norm() + 1e-5


def test_a_trained_path_keeps_nothing_in_training_and_a_frozen_one_does() -> None:
    made = reader("llava").train()
    scored(made, shows(0))
    scored(made, shows(0))
    assert made.vision_cache.computed == len(made.vision_cache) == 0
    assert made.generate(made.processor.encode_prompts([shows(0)], share_images=True), 2)
    frozen = HfReader(tiny("llava"), adapter=LoraSettings(rank=2))
    frozen.prepare(TEXTS)
    for mode in (True, False, True, False):
        scored(frozen.train(mode), shows(0))
    assert frozen.vision_cache.computed == 2  # once alone, for training, and once with others
