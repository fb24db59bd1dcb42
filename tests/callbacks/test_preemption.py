"""A signal stops training at an optimizer step, and the resumed run ends with the very same weights."""

import os
import signal

import lightning as L
import pytest
import torch

from callbacks.checkpoint_io import AtomicCheckpointIO
from callbacks.last_checkpoint import LastCheckpoint
from callbacks.preemption import Preemption, Stopped

BATCHES = 4


class Loader:
    """Batches that depend on epoch and position only; goes on where it stopped."""

    def __init__(self):
        self.epoch, self.position = 0, 0

    def __len__(self):
        return BATCHES

    def __iter__(self):
        if self.position == BATCHES:
            self.epoch, self.position = self.epoch + 1, 0
        while self.position < BATCHES:
            self.position += 1
            yield torch.rand(2, 3, generator=torch.Generator().manual_seed(100 * self.epoch + self.position))

    def state_dict(self):
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state):
        self.epoch, self.position = state["epoch"], state["position"]


class Toy(L.LightningModule):
    def __init__(self, stop_at=None, number=signal.SIGTERM, in_validation=False):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        torch.nn.init.constant_(self.layer.weight, 0.5)
        torch.nn.init.zeros_(self.layer.bias)
        self.stop_at, self.number, self.in_validation = stop_at, number, in_validation
        self.validated = []
        self.batches = []

    def training_step(self, batch, index):
        self.batches.append(round(float(batch.sum()), 4))
        if not self.in_validation and self.stop_at == self.trainer.fit_loop.total_batch_idx:
            os.kill(os.getpid(), self.number)
        return (self.layer(batch) - batch.sum(1, keepdim=True)).pow(2).mean()

    def validation_step(self, batch, index):
        if index == 0:
            self.validated.append(self.trainer.global_step)
            if self.in_validation and self.stop_at == self.trainer.current_epoch:
                os.kill(os.getpid(), self.number)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.1)

    def train_dataloader(self):
        return Loader()

    def val_dataloader(self):
        return torch.utils.data.DataLoader(torch.zeros(2, 3))


def fit(folder, model, resume=None, accumulate=1, every_n_steps=0):
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        accumulate_grad_batches=accumulate,
        callbacks=[Preemption(), LastCheckpoint(every_n_steps)],
        plugins=[AtomicCheckpointIO()],
    )
    trainer.fit(model, ckpt_path=resume)
    return trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that nobody stopped, by accumulation."""
    models = {}
    for accumulate in (1, 2):
        models[accumulate] = Toy()
        fit(tmp_path_factory.mktemp("whole"), models[accumulate], accumulate=accumulate)
    return models


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("stop_at", range(2 * BATCHES))
def test_stop_at_any_batch_and_resume_is_bit_equal(tmp_path, whole, stop_at, accumulate):
    first = Toy(stop_at)
    with pytest.raises(Stopped) as caught:
        fit(tmp_path, first, accumulate=accumulate)
    assert caught.value.code == 75
    expected = stop_at // accumulate + 1
    if expected % (BATCHES // accumulate) == 0:  # the last step of an epoch: validation and one more step come first
        expected = min(expected + 1, 2 * BATCHES // accumulate)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == expected

    second = Toy()
    fit(tmp_path, second, resume=tmp_path / "checkpoints" / "last.ckpt", accumulate=accumulate)
    assert torch.equal(second.layer.weight, whole[accumulate].layer.weight)
    assert first.batches + second.batches == whole[accumulate].batches
    assert first.validated + second.validated == whole[accumulate].validated


def test_signal_in_validation_stops_after_the_next_step(tmp_path, whole):
    first = Toy(stop_at=0, in_validation=True)
    with pytest.raises(Stopped):
        fit(tmp_path, first)
    assert len(first.batches) == BATCHES + 1
    second = Toy()
    fit(tmp_path, second, resume=tmp_path / "checkpoints" / "last.ckpt")
    assert torch.equal(second.layer.weight, whole[1].layer.weight)


def test_signal_in_the_last_validation_still_tells(tmp_path):
    with pytest.raises(Stopped) as caught:
        fit(tmp_path, Toy(stop_at=1, in_validation=True))
    assert caught.value.code == 75


def test_interrupt_has_its_own_code_and_handlers_come_back(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Stopped) as caught:
        fit(tmp_path, Toy(2, signal.SIGINT))
    assert caught.value.code == 130
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


class Killed(BaseException):
    """Stands for kill -9: nothing of ours catches it."""


class KilledToy(Toy):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.trainer.fit_loop.total_batch_idx == self.stop_at:
            raise Killed


@pytest.mark.parametrize("every_n_steps", [1, 3])
@pytest.mark.parametrize("kill_at", range(2 * BATCHES))
def test_kill_at_any_batch_and_resume_from_last_is_bit_equal(tmp_path, whole, kill_at, every_n_steps):
    first = KilledToy()
    first.number, first.in_validation, first.stop_at = None, True, kill_at
    with pytest.raises(Killed):
        fit(tmp_path, first, every_n_steps=every_n_steps)
    last = tmp_path / "checkpoints" / "last.ckpt"
    second = Toy()
    fit(tmp_path, second, resume=last, every_n_steps=every_n_steps)
    assert torch.equal(second.layer.weight, whole[1].layer.weight)
    assert sorted({*first.validated, *second.validated}) == whole[1].validated
