"""A run that stops anywhere and resumes ends with the same weights, bit for bit."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from toy import data, stage, trainer

from medrag_lightning.data.augment import Augmentation

EPOCHS = 2
DROPOUT = 0.2


class StopAfter(L.Callback):
    """Fails the run once `steps` batches are done, after the checkpoint of that step is written."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if trainer.global_step == self.steps:
            raise KeyboardInterrupt


def run(folder, stop_after=None, resume=False, workers=0, **settings):
    module = stage(dropout=DROPOUT)
    served = data(folder, num_workers=workers, augmentation=Augmentation(), max_eval_queries=2)
    keep = ModelCheckpoint(folder, save_last=True, every_n_train_steps=1, save_top_k=0)
    callbacks = [keep] if stop_after is None else [StopAfter(stop_after), keep]
    fitter = trainer(folder, max_epochs=EPOCHS, enable_checkpointing=True, callbacks=callbacks, **settings)
    last = folder / "last.ckpt" if resume else None
    try:
        fitter.fit(module, datamodule=served, ckpt_path=last, weights_only=True)
    except SystemExit:
        assert stop_after is not None
    return fitter, {name: value.detach().clone() for name, value in module.named_parameters()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    fitter, weights = run(tmp_path_factory.mktemp("whole"))
    return fitter.global_step, weights


def assert_bit_equal(mine, theirs):
    wrong = [name for name, value in theirs.items() if not torch.equal(mine[name], value)]
    assert not wrong, f"{len(wrong)} of {len(theirs)} weights differ, first {wrong[0]}"


# The toy has 24 training samples: 4 steps an epoch, 8 in all; 4 is the end of an epoch.
@pytest.mark.parametrize("steps", [1, 3, 4, 5, 7])
def test_resume_is_bit_equal_after_any_step(uninterrupted, tmp_path, steps):
    total, weights = uninterrupted
    assert steps < total
    run(tmp_path, stop_after=steps)
    fitter, resumed = run(tmp_path, resume=True)
    assert fitter.global_step == total
    assert_bit_equal(resumed, weights)


@pytest.mark.parametrize("steps", [2, 4])
def test_resume_is_bit_equal_with_loader_processes(uninterrupted, tmp_path, steps):
    total, weights = uninterrupted
    run(tmp_path, stop_after=steps, workers=2)
    fitter, resumed = run(tmp_path, resume=True, workers=2)
    assert fitter.global_step == total
    assert_bit_equal(resumed, weights)


def test_dropout_and_augmentation_are_on(uninterrupted, tmp_path):
    """Otherwise the tests above would prove little."""
    module = stage(dropout=0.0)
    trainer(tmp_path, max_epochs=EPOCHS).fit(module, datamodule=data(tmp_path, max_eval_queries=2))
    _, weights = uninterrupted
    assert any(not torch.equal(value, weights[name]) for name, value in module.named_parameters())


def test_resume_with_another_batch_size_is_refused(tmp_path):
    run(tmp_path, stop_after=2)
    served = data(tmp_path, batch_size=4, augmentation=Augmentation(), max_eval_queries=2)
    with pytest.raises(ValueError, match="global_batch_size=6"):
        trainer(tmp_path, max_epochs=EPOCHS).fit(
            stage(dropout=DROPOUT), datamodule=served, ckpt_path=tmp_path / "last.ckpt", weights_only=True
        )
