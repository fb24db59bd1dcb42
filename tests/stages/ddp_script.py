"""Fits and tests the toy on 1 or 2 processes with the same global batch; writes weights and metrics. Run by test_ddp.py."""

import sys
from functools import partial
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from toy import data, stage, trainer


class Dump(L.Callback):
    """Process 0 writes the metrics: forked processes end with the run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer, module) -> None:
        self._write(trainer, "fit")

    def on_test_end(self, trainer, module) -> None:
        self._write(trainer, "test")

    def _write(self, trainer, phase: str) -> None:
        if trainer.is_global_zero:
            torch.save({name: float(value) for name, value in trainer.callback_metrics.items()}, self.folder / f"{phase}.pt")


if __name__ == "__main__":
    folder, processes = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    served = data(folder, batch_size=6 // processes, eval_batch_size=3)
    # AdamW turns the rounding noise of a gradient that is zero by symmetry (a key's bias) into steps of full size.
    descent = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    shared = {"devices": processes, "strategy": "ddp_fork" if processes > 1 else "auto", "enable_checkpointing": True}
    keep = ModelCheckpoint(folder, save_last=True, save_top_k=0)
    trainer(folder, max_epochs=2, callbacks=[Dump(folder), keep], **shared).fit(stage(optimizer=descent), datamodule=served)
    trainer(folder, callbacks=[Dump(folder)], **shared).test(
        stage(optimizer=descent), datamodule=served, ckpt_path=folder / "last.ckpt", verbose=False, weights_only=True
    )
