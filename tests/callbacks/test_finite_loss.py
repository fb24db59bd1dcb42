"""A loss that is not a number stops training before weights and checkpoints have it."""

import math

import lightning as L
import pytest
import torch
from toy_run import ToyData, ToyStage, trainer

from callbacks.finite_loss import FiniteLoss
from callbacks.last_checkpoint import LastCheckpoint


class Spoilt(ToyStage):
    """Its loss is spoilt at one step."""

    def __init__(self, step: int, value: float) -> None:
        super().__init__()
        self.step, self.value = step, value

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * self.value if self.global_step == self.step else loss


class SpoiltWeight(L.Callback):
    """A gradient overflowed although the loss did not."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == 6:
            with torch.no_grad():
                pl_module.line.weight.fill_(math.inf)


def fit(folder, stage, *callbacks):
    L.seed_everything(0, verbose=False)
    runner = trainer(folder, *callbacks, FiniteLoss(), LastCheckpoint(every_n_steps=2))
    with pytest.raises(ValueError) as caught:
        runner.fit(stage, ToyData())
    return str(caught.value), torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_spoilt_loss_stops_training_with_step_rate_and_remedy(tmp_path, value):
    stage = Spoilt(5, value)
    told, last = fit(tmp_path, stage)
    assert str(value) in told
    for part in ("at step 5 (epoch 0)", "learning rate 0.05", "precision 32-true", "--ckpt_path last", "lower learning rate"):
        assert part in told
    assert last["global_step"] == 4
    assert all(torch.isfinite(weight).all() for weight in last["state_dict"].values())
    assert all(torch.isfinite(weight).all() for weight in stage.parameters())


def test_spoilt_weights_never_reach_a_checkpoint(tmp_path):
    told, last = fit(tmp_path, ToyStage(), SpoiltWeight())
    assert "1 trained weights such as line.weight are nan or infinite at step 6" in told
    assert last["global_step"] == 4
    assert all(torch.isfinite(weight).all() for weight in last["state_dict"].values())


def test_queries_are_named_and_patience_must_be_positive():
    class Named:
        id = "q7"

    class Shown:
        query = Named()

    class Batch:
        examples = (Shown(),) * 3

    from callbacks.finite_loss import _query_ids

    assert _query_ids(Batch()) == ["q7"]
    with pytest.raises(ValueError, match="patience"):
        FiniteLoss(0)
