from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from toy import data, stage, trainer

from medrag_lightning.stages.base import Schedule, checked_description


def test_schedule_warms_up_and_falls():
    factors = [Schedule("cosine", warmup_share=0.2, floor=0.1).factor(step, 100) for step in range(101)]
    assert factors[:20] == sorted(factors[:20])
    assert factors[0] > 0
    assert factors[20] == pytest.approx(1.0)
    assert factors[20:] == sorted(factors[20:], reverse=True)
    assert factors[100] == pytest.approx(0.1)
    assert factors[60] == pytest.approx(0.55)


def test_other_shapes():
    assert [Schedule("linear", 0.0).factor(step, 4) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert {Schedule("constant", 0.0).factor(step, 4) for step in range(5)} == {1.0}


@pytest.mark.parametrize("bad", [{"warmup_share": 1.0}, {"floor": -0.1}])
def test_bad_schedules_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Schedule(**bad)


def test_a_foreign_checkpoint_is_not_ours():
    with pytest.raises(ValueError, match="was not written by"):
        checked_description({"state_dict": {}}, "reader_raft", "some.ckpt")


def test_a_checkpoint_that_lacks_weights_is_refused():
    module = stage()
    module.reader.prepare(["a b c"])
    checkpoint = {"state_dict": dict(module.state_dict())}
    module.on_save_checkpoint(checkpoint)
    checkpoint["state_dict"].pop(sorted(checkpoint["state_dict"])[0])
    with pytest.raises(ValueError, match="lacks 1 trained weights"):
        module.on_load_checkpoint(checkpoint)


def test_dropout_is_seeded_by_epoch_batch_and_process():
    module = stage()
    drawn = []
    for batch in (0, 1, 0):
        module.on_train_batch_start(None, batch)
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[2] != drawn[1]


def test_dropout_is_seeded_as_by_torch_but_without_asking_for_a_gpu(monkeypatch):
    module = stage()
    module.on_train_batch_start(None, 3)
    drawn = torch.rand(4)
    torch.manual_seed(torch.default_generator.initial_seed())
    assert torch.rand(4).equal(drawn)

    def fail(seed):
        raise AssertionError("a stack trace is formatted here, in every step")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", fail)
    module.on_train_batch_start(None, 3)
    assert torch.rand(4).equal(drawn)


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_gradients_are_clipped_for_fused_optimizers(tmp_path, precision):
    """As configs/base.yaml and the stages' files have it; Lightning alone refuses the first."""
    module, norms = stage(optimizer=lambda parameters: torch.optim.AdamW(parameters, 1e-3, fused=True)), []
    step = module.optimizer_step

    def watched(epoch, batch, optimizer, closure):
        step(epoch, batch, optimizer, closure)
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.linalg.vector_norm(torch.stack([grad.norm() for grad in grads]))))

    module.optimizer_step = watched
    fit = trainer(tmp_path, max_steps=2, limit_val_batches=0, precision=precision, gradient_clip_val=1e-3)
    fit.fit(module, datamodule=data(tmp_path))
    assert norms == pytest.approx([1e-3, 1e-3], rel=0.01)


def test_scaled_gradients_of_a_fused_optimizer_are_not_clipped():
    module = stage(optimizer=lambda parameters: torch.optim.AdamW(parameters, 1e-3, fused=True))
    module.reader.prepare(["a b c"])
    plugin = MixedPrecision("16-mixed", "cuda", torch.amp.GradScaler("cuda", enabled=False))
    module._trainer = SimpleNamespace(precision_plugin=plugin, gradient_clip_val=1.0, precision="16-mixed")
    with pytest.raises(ValueError, match=r"16-mixed: a fused optimizer .*fused false"):
        module.configure_optimizers()
