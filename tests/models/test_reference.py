"""The reader before training is its base, bit for bit, and leaves no trace in the tuned one."""

from __future__ import annotations

import pytest
import torch
from reader_world import ANSWERS, TEXTS, answer_rows, prompts, tiny
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from medrag_lightning.batches import AnswerRows, EncodedPrompts
from medrag_lightning.interfaces import TunableReader
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.lora import LoraSettings

ROWS = [0, 0, 1, 2, 3, 3, 3, 4]


def tuned(family: str = "llava", **settings: object) -> HfReader:
    """A reader whose adapter has been trained away from its base, in training mode."""
    made = HfReader(tiny(family), LoraSettings(dropout=0.5, **settings))  # type: ignore[arg-type]
    made.prepare(TEXTS)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return made.train()


def base(family: str = "llava") -> HfReader:
    made = HfReader(tiny(family))
    made.prepare(TEXTS)
    return made.eval()


def asked(made: HfReader, share: bool = True) -> tuple[EncodedPrompts, AnswerRows]:
    encoded = made.processor.encode_prompts(prompts(), share_images=share)
    return encoded, answer_rows(made, ROWS, [ANSWERS[i % 3] for i in range(len(ROWS))])


def untuned(family: str, share: bool) -> Tensor:
    with torch.no_grad():
        plain = base(family)
        return plain.token_logp(*asked(plain, share))


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "idefics3"])
def test_the_reference_is_the_base_bit_for_bit(family: str, share: bool) -> None:
    made = tuned(family)
    with made.reference():
        with made.reference():
            pass
        before = made.token_logp(*asked(made, share))
    assert not before.requires_grad
    assert before.equal(untuned(family, share))
    assert not torch.allclose(made.eval().token_logp(*asked(made, False)), before, atol=1e-3)


def test_an_adapter_on_the_image_path_shares_no_features() -> None:
    made = tuned(vision=True, projector=True).eval()
    with torch.no_grad():
        now = made.token_logp(*asked(made))
        kept = len(made.vision_cache)
        with made.reference():
            before = made.token_logp(*asked(made))
        assert len(made.vision_cache) == kept > 0
        assert made.token_logp(*asked(made)).equal(now)
    assert before.equal(untuned("llava", True))


def test_features_are_shared_where_the_adapter_leaves_images_alone() -> None:
    made = tuned().eval()
    with torch.no_grad():
        made.token_logp(*asked(made))
        computed = made.vision_cache.computed
        with made.reference():
            made.token_logp(*asked(made))
        made.token_logp(*asked(made))
    assert made.vision_cache.computed == computed > 0


@pytest.mark.parametrize("fails", [False, True])
def test_modes_gradients_and_weights_are_as_before(fails: bool) -> None:
    made = tuned(vision=True, projector=True)
    modes = {name: module.training for name, module in made.named_modules()}
    trained = {name: (p.requires_grad, p.detach().clone()) for name, p in made.named_parameters()}
    assert any(modes.values())
    try:
        with made.reference():
            assert not any(module.training for module in made.modules())
            if fails:
                raise KeyError("on purpose")
    except KeyError:
        pass
    assert {name: module.training for name, module in made.named_modules()} == modes
    assert all(p.requires_grad is trained[n][0] and p.equal(trained[n][1]) for n, p in made.named_parameters())
    assert torch.is_grad_enabled()


class Both(torch.nn.Module):
    """What a stage does in a step: the policy with gradients, then the reference."""

    def __init__(self, reader: HfReader) -> None:
        super().__init__()
        self.reader = reader

    def forward(self, prompts: EncodedPrompts, rows: AnswerRows) -> Tensor:
        policy = self.reader.token_logp(prompts, rows)
        with self.reader.reference():
            reference = self.reader.token_logp(prompts, rows)
        return (policy - reference).square().sum()


def gradients(module: torch.nn.Module, made: HfReader) -> dict[str, Tensor]:
    torch.manual_seed(0)
    module(*asked(made, False)).backward()
    found = {n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None}
    made.zero_grad(set_to_none=True)
    return found


def test_between_forward_and_backward_and_under_ddp(tmp_path) -> None:  # type: ignore[no-untyped-def]
    made = tuned()
    both = Both(made)
    with torch.no_grad():
        reference = untuned("llava", False)
    torch.manual_seed(0)
    (made.token_logp(*asked(made, False)) - reference).square().sum().backward()
    plain = {n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None}
    made.zero_grad(set_to_none=True)
    assert plain
    assert plain.keys() == {n for n, p in made.named_parameters() if p.requires_grad}
    found = gradients(both, made)
    assert all(torch.allclose(found[n], plain[n], atol=1e-5) for n in plain)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(both)
        for _ in range(2):
            again = gradients(wrapped, made)
            assert all(again[n].equal(found[n]) for n in plain)
    finally:
        torch.distributed.destroy_process_group()


def test_learned_steering_is_as_before_training() -> None:
    made = HfReader(tiny("llava"), LoraSettings(), learned_steering=True)
    made.prepare(TEXTS)
    factor = made.steering_factor_L
    assert factor is not None
    torch.nn.init.constant_(factor, 3.0)
    with made.reference():
        assert factor.eq(1).all()
    assert factor.eq(3).all()


def test_without_an_adapter_there_is_no_reference() -> None:
    made = base()
    with pytest.raises(ValueError, match="give it an adapter"):
        made.reference()
    assert isinstance(made, TunableReader)
