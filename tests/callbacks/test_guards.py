"""The frozen-weights guard sees one moved value."""

import lightning as L
import pytest
import torch

from callbacks.guards import FrozenGuard, digest


class Half(L.LightningModule):
    """Trains one layer; moves one value of the other at step `move_at`."""

    def __init__(self, move_at=None, place=0):
        super().__init__()
        self.frozen, self.trained = torch.nn.Linear(8, 8), torch.nn.Linear(8, 1)
        self.frozen.requires_grad_(False).to(torch.bfloat16)
        self.move_at, self.place = move_at, place

    def training_step(self, batch, index):
        if self.global_step == self.move_at:
            self.frozen.weight.view(-1)[self.place] += 1
        return self.trained(self.frozen(batch.bfloat16()).float()).pow(2).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.trained.parameters(), 0.1)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(6, 8))


def fit(model, guard):
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    L.Trainer(max_epochs=1, enable_model_summary=False, callbacks=[guard], **settings).fit(model)


def test_training_that_keeps_frozen_weights_passes():
    fit(Half(), FrozenGuard(sample_every_n_steps=1))


def test_sampled_value_is_caught_on_the_way():
    with pytest.raises(RuntimeError, match=r"frozen\.weight moved before step 3"):
        fit(Half(move_at=2), FrozenGuard(sample_every_n_steps=1, sample_size=16))


def test_value_outside_the_sample_is_caught_at_the_end():
    with pytest.raises(RuntimeError, match=r"1 frozen parameters moved.*frozen\.weight"):
        fit(Half(move_at=2, place=1), FrozenGuard(sample_every_n_steps=1, sample_size=16))


def test_digest_tells_every_bit_apart():
    assert digest(torch.tensor([0.0])) != digest(torch.tensor([-0.0]))
    assert digest(torch.ones(3, dtype=torch.bfloat16)) == digest(torch.ones(6, dtype=torch.bfloat16)[::2])


@pytest.mark.parametrize("settings", [{"sample_every_n_steps": -1}, {"sample_size": 0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="FrozenGuard needs"):
        FrozenGuard(**settings)
