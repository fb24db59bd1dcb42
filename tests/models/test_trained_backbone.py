"""A trained reader as a base: the same reader, to tune further from and to compare with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from reader_folders import FOLDERS
from reader_world import ANSWERS, TEXTS, answer_rows, prompts, tiny
from torch import Tensor

from medrag_lightning.models.backbones import Backbone, Pretrained
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.lora import LoraSettings
from medrag_lightning.models.trained_backbone import TrainedBackbone

ROWS = [0, 0, 1, 2, 3, 3, 3, 4]
LORA = LoraSettings(rank=4, projector=True)


def tuned(backbone: Backbone, adapter: LoraSettings | None = None, seed: int = 1, size: float = 0.05, **more: Any) -> HfReader:
    """A reader that has moved away from its base, in evaluation mode."""
    made = HfReader(backbone, adapter, **more)
    made.prepare(TEXTS)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn_like(parameter))
    return made.eval()


def saved(made: HfReader, path: Path, stage: str = "reader_raft", leave_out: int = 0) -> str:
    """The checkpoint that a stage would write of its reader."""
    trained = {f"reader.{name}": p.detach() for name, p in made.named_parameters() if p.requires_grad}
    head = {"stage": stage, "description": json.loads(json.dumps({"reader": made.describe()}))}
    torch.save({"state_dict": dict(list(trained.items())[leave_out:]), "medrag": head}, path)
    return str(path)


def frozen(backbone: TrainedBackbone) -> HfReader:
    made = HfReader(backbone, freeze="all_but_adapter")
    made.prepare(["texts that no tokenizer may be trained on"])
    return made.eval()


@torch.no_grad()
def scores(made: HfReader) -> Tensor:
    encoded = made.processor.encode_prompts(prompts())
    return made.token_logp(encoded, answer_rows(made, ROWS, [ANSWERS[i % 3] for i in range(len(ROWS))]))


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_trained_in_full_it_is_the_same_reader_bit_for_bit(family: str, tmp_path: Path) -> None:
    first = tuned(tiny(family))
    served = frozen(TrainedBackbone(tiny(family), saved(first, tmp_path / "raft.ckpt")))
    assert scores(served).equal(scores(first))
    assert not scores(served).equal(scores(tuned(tiny(family), size=0.0)))
    assert served.processor.tokenizer.get_vocab() == first.processor.tokenizer.get_vocab()
    assert not any(p.requires_grad for p in served.parameters())


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "idefics3"])
def test_a_merged_adapter_is_the_adapter(family: str, tmp_path: Path) -> None:
    first = tuned(tiny(family), LORA)
    served = frozen(TrainedBackbone(tiny(family), saved(first, tmp_path / "raft.ckpt"), LORA))
    assert torch.allclose(scores(served), scores(first), atol=1e-5)
    assert not any("lora" in name for name in served.state_dict())


def half(tmp_path: Path) -> Pretrained:
    FOLDERS["llava"](tmp_path / "base")
    return Pretrained(str(tmp_path / "base"), dtype="bfloat16", max_image_side_px=32)


def test_in_half_precision_an_adapter_is_kept_beside_the_base(tmp_path: Path) -> None:
    base = half(tmp_path)
    first = tuned(base, LoraSettings(rank=4), size=0.2)
    one = TrainedBackbone(base, saved(first, tmp_path / "raft.ckpt"), LoraSettings(rank=4))
    served = frozen(one)
    assert served.core.dtype == torch.bfloat16
    assert scores(served).equal(scores(first))
    assert not scores(served).equal(scores(tuned(base, LoraSettings(rank=4), size=0.0)))
    policy = tuned(one, LoraSettings(rank=2, seed=3), size=0.2)
    with policy.reference():
        assert scores(policy).equal(scores(first))
    moved = scores(policy)
    assert not moved.equal(scores(first))
    two = TrainedBackbone(one, saved(policy, tmp_path / "pref.ckpt", "reader_preference"), LoraSettings(rank=2, seed=3))
    assert scores(frozen(two)).equal(moved)


def test_in_half_precision_what_was_trained_in_full_is_rounded(tmp_path: Path) -> None:
    base = half(tmp_path)
    first = tuned(base, size=0.01, freeze="vision")
    served = frozen(TrainedBackbone(base, saved(first, tmp_path / "raft.ckpt")))
    assert {p.dtype for p in served.parameters()} == {torch.bfloat16}
    assert (scores(served) - scores(first)).abs().max() < 0.1


def test_the_reference_of_a_tuned_reader_is_the_reader_it_was_tuned_from(tmp_path: Path) -> None:
    first = tuned(tiny("llava"))
    base = TrainedBackbone(tiny("llava"), saved(first, tmp_path / "raft.ckpt"))
    policy = tuned(base, LORA, size=0.0)
    assert scores(policy).equal(scores(first))  # an adapter begins at nothing
    policy = tuned(base, LORA)
    with policy.reference():
        assert scores(policy).equal(scores(first))
    assert not torch.allclose(scores(policy), scores(first), atol=1e-3)


def test_two_stages_one_after_the_other(tmp_path: Path) -> None:
    first = TrainedBackbone(tiny("llava"), saved(tuned(tiny("llava"), LORA), tmp_path / "raft.ckpt"), LORA)
    policy = tuned(first, LoraSettings(rank=2), seed=2)
    path = saved(policy, tmp_path / "one.ckpt", "reader_preference")
    again = HfReader(first, LoraSettings(rank=2))
    again.restore(json.loads(json.dumps(policy.describe())))
    again.load_state_dict({n: p for n, p in policy.named_parameters() if p.requires_grad}, strict=False)
    assert scores(again.eval()).equal(scores(policy))
    second = tuned(TrainedBackbone(first, path, LoraSettings(rank=2)), LoraSettings(rank=2), seed=3)
    with second.reference():
        assert torch.allclose(scores(second), scores(policy), atol=1e-5)
    assert not torch.allclose(scores(second), scores(policy), atol=1e-3)


def test_a_tuned_reader_is_refused_over_another_base(tmp_path: Path) -> None:
    one = TrainedBackbone(tiny("llava"), saved(tuned(tiny("llava")), tmp_path / "one.ckpt"))
    two = TrainedBackbone(tiny("llava"), saved(tuned(tiny("llava"), seed=2), tmp_path / "two.ckpt"))
    moved = TrainedBackbone(tiny("llava"), saved(tuned(tiny("llava")), tmp_path / "moved.ckpt"))
    policy = tuned(one, LORA)
    HfReader(moved, LORA).restore(policy.describe())
    with pytest.raises(ValueError, match=r"tuned from another reader than that of .*two.ckpt \(sha256 .*give TrainedBackbone"):
        HfReader(two, LORA).restore(policy.describe())
    with pytest.raises(ValueError, match=r"tuned from the reader of an earlier stage.*TrainedBackbone"):
        HfReader(tiny("llava"), LORA).restore(policy.describe())
    with pytest.raises(ValueError, match=r"stands on 'tiny' itself.*in place of TrainedBackbone"):
        HfReader(one, LORA).restore(tuned(tiny("llava"), LORA).describe())
    with pytest.raises(ValueError, match="adapter: checkpoint"):
        HfReader(one).restore(policy.describe())


def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    def load(path: str, adapter: LoraSettings | None = None, **shape: Any) -> None:
        TrainedBackbone(tiny("llava", **shape), path, adapter).load(())

    whole, low = saved(tuned(tiny("llava")), tmp_path / "full.ckpt"), saved(tuned(tiny("llava"), LORA), tmp_path / "lora.ckpt")
    with pytest.raises(ValueError, match=r"none.ckpt: there is no such checkpoint; fit the stage reader_raft first"):
        load(str(tmp_path / "none.ckpt"))
    with pytest.raises(ValueError, match=r"of stage 'embed'; .* of stage 'reader_raft' or 'reader_preference'"):
        load(saved(tuned(tiny("llava")), tmp_path / "x.ckpt", "embed"))
    with pytest.raises(ValueError, match=r"TrainedBackbone, .*lora.ckpt: .*adapter: checkpoint \{.*here None"):
        load(low)
    with pytest.raises(ValueError, match=r"full.ckpt: .*adapter: checkpoint None, here \{"):
        load(whole, LORA)
    with pytest.raises(ValueError, match=r"full.ckpt: .*layers: checkpoint 2, here 3"):
        load(whole, layers=3)
    with pytest.raises(ValueError, match=r"less.ckpt does not fit its own reader: it lacks 1 trained weights"):
        load(saved(tuned(tiny("llava")), tmp_path / "less.ckpt", leave_out=1))
    steered = saved(tuned(tiny("llava"), learned_steering=True), tmp_path / "steered.ckpt")
    with pytest.raises(ValueError, match="learnt its steering"):
        load(steered)


def test_an_update_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    for base in (tiny("llava"), half(tmp_path)):
        first = tuned(base, LoraSettings(), size=float("nan"))
        with pytest.raises(ValueError, match=r"NaN|not finite"):
            TrainedBackbone(base, saved(first, tmp_path / "nan.ckpt"), LoraSettings()).load(())


def test_it_can_be_quantised_if_its_base_can(tmp_path: Path) -> None:
    base = tiny("llava")
    base.quantization = "nf4"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="a nf4 base cannot be trained"):
        HfReader(TrainedBackbone(base, "x.ckpt"))
    assert TrainedBackbone(tiny("llava"), "x.ckpt").quantization is None
