"""``checkpoints/last.ckpt``: the newest point from which training goes on as if it had never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint


class LastCheckpoint(Checkpoint):
    """Saves ``<run folder>/checkpoints/last.ckpt`` at the start, every so many steps, after validation, and at the end.

    A checkpoint that Lightning writes just before a validation resumes *after* it, and that validation is lost; so no
    checkpoint is written there, but after the validation. List this after `ModelCheckpoint`, so that the best score is
    in it. `ModelCheckpoint(save_last=True)` is not needed beside it.

    Args:
        every_n_steps: optimizer steps between two saves; 0 for none in between.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        super().__init__()
        if every_n_steps < 0:
            raise ValueError(f"LastCheckpoint needs every_n_steps >= 0, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self._saved_step = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves the very beginning, so that a run killed at once resumes like any other; not what was just loaded."""
        self._saved_step = trainer.global_step
        if trainer.ckpt_path is None:
            self._save(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves when `every_n_steps` have passed since the last save, unless a validation comes next."""
        due = self.every_n_steps > 0 and trainer.global_step - self._saved_step >= self.every_n_steps
        if due and can_resume_after(trainer, batch_idx):
            self._save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves after a validation within training."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves the end."""
        if trainer.global_step > self._saved_step:
            self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        if getattr(trainer, "fast_dev_run", False):
            return
        self._saved_step = trainer.global_step
        trainer.save_checkpoint(last_path(trainer))


def last_path(trainer: L.Trainer) -> Path:
    """Where the newest checkpoint of this run lies."""
    return Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"


def can_resume_after(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether a checkpoint written after this training batch loses nothing: no half-accumulated gradient, no validation."""
    stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or batch_idx + 1 >= trainer.num_training_batches
    every = trainer.val_check_batch
    validates = trainer.enable_validation and every is not None and (batch_idx + 1) % every == 0
    return stepped and not last and not validates
