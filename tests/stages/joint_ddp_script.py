"""Fits reader and retriever together on some processes. Run by test_joint_ddp.py."""

import sys
from functools import partial
from pathlib import Path

import torch
from ddp_script import Dump
from distill_world import ClosedTable, trainer
from joint_world import joint, served
from lightning.pytorch.callbacks import ModelCheckpoint


def run(folder: Path, processes: int) -> None:
    """Two epochs in global batches of six questions, three candidates each, read two prompts at a time; then a test."""
    data = served(folder, ClosedTable(str(folder)), batch_size=6 // processes, eval_batch_size=3)
    descent = partial(torch.optim.SGD, lr=1.0, momentum=0.9)
    shared = {"devices": processes, "strategy": "ddp_fork" if processes > 1 else "auto", "enable_checkpointing": True}
    keep = ModelCheckpoint(folder, save_last=True, save_top_k=0)
    fitter = trainer(folder, max_epochs=2, callbacks=[Dump(folder), keep], **shared)
    fitter.fit(joint(optimizer=descent, reader_chunk=2), datamodule=data)
    again = joint(optimizer=descent, reader_chunk=2)
    last = {"datamodule": data, "ckpt_path": folder / "last.ckpt", "weights_only": True}
    trainer(folder, callbacks=[Dump(folder)], **shared).test(again, verbose=False, **last)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), int(sys.argv[2]))
