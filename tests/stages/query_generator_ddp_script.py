"""Fits, tests and predicts with a query generator on some processes. Run by test_query_generator_ddp.py."""

import sys
from functools import partial
from pathlib import Path

import torch
from ddp_script import Dump
from lightning.pytorch.callbacks import ModelCheckpoint
from search_world import data, stage, trainer

from callbacks.search_table_writer import SearchTableWriter


def run(folder: Path, processes: int) -> None:
    """Two epochs in global batches of six texts, then a test, then the table of searches."""
    served = data(folder, batch_size=6 // processes, eval_batch_size=3)
    descent = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    shared = {"devices": processes, "strategy": "ddp_fork" if processes > 1 else "auto", "enable_checkpointing": True}
    keep = ModelCheckpoint(folder, save_last=True, save_top_k=0)
    trainer(folder, max_epochs=2, callbacks=[Dump(folder), keep], **shared).fit(stage(optimizer=descent), datamodule=served)
    last = {"datamodule": served, "ckpt_path": folder / "last.ckpt", "weights_only": True}
    trainer(folder, callbacks=[Dump(folder)], **shared).test(stage(optimizer=descent), verbose=False, **last)
    writer = SearchTableWriter(rows_per_shard=4)
    trainer(folder, callbacks=[writer], **shared).predict(stage(optimizer=descent), return_predictions=False, **last)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), int(sys.argv[2]))
