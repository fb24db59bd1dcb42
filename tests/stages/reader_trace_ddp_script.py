"""Fits and tests a reader of traces on some processes. Run by test_reader_trace_ddp.py."""

import sys
from functools import partial
from pathlib import Path

import torch
from ddp_script import Dump
from lightning.pytorch.callbacks import ModelCheckpoint
from trace_world import data, stage, trainer

from callbacks.predictions_writer import PredictionsWriter
from medrag_lightning.stages.learning_rates import LearningRates

RATES = LearningRates(projector=0.02, language_model=0.05)


def run(folder: Path, processes: int) -> None:
    """Two epochs in global batches of six traces, then a test."""
    served = data(folder, batch_size=6 // processes, eval_batch_size=3)
    descent = partial(torch.optim.SGD, lr=1.0, momentum=0.9)
    made = partial(stage, optimizer=descent, learning_rates=RATES, max_new_tokens=30)
    shared = {"devices": processes, "strategy": "ddp_fork" if processes > 1 else "auto", "enable_checkpointing": True}
    keep = ModelCheckpoint(folder, save_last=True, save_top_k=0)
    trainer(folder, max_epochs=2, callbacks=[Dump(folder), keep], **shared).fit(made(), datamodule=served)
    last = {"datamodule": served, "ckpt_path": folder / "last.ckpt", "weights_only": True}
    trainer(folder, callbacks=[Dump(folder), PredictionsWriter()], **shared).test(made(), verbose=False, **last)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), int(sys.argv[2]))
