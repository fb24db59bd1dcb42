"""Fits and validates the contrastive toy on 1 or 2 processes with the same global batch. Run by test_contrastive_ddp.py."""

import sys
from functools import partial
from pathlib import Path

import torch
from ddp_script import Dump
from lightning.pytorch.callbacks import ModelCheckpoint
from toy import data, trainer

from medrag_lightning.data.pair_feed import PairPlan
from medrag_lightning.models.tiny_towers import TinyTowers
from medrag_lightning.stages.retriever_contrastive import RetrieverContrastive

if __name__ == "__main__":
    folder, processes = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    for loss, chunk_size in (("clip", None), ("siglip", 2)):
        # 15 pairs in global batches of 6: the last one has 3, so one process has 2 of them and the other 1
        served = data(folder, batch_size=6 // processes, eval_batch_size=3, pairs=PairPlan(0.2, 0.2), leaks="ignore")
        descent = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
        stage = RetrieverContrastive(TinyTowers(32, 32, 0.0), descent, loss=loss, chunk_size=chunk_size)
        (folder / loss).mkdir(exist_ok=True)
        shared = {"devices": processes, "strategy": "ddp_fork" if processes > 1 else "auto", "enable_checkpointing": True}
        keep = ModelCheckpoint(folder / loss, save_last=True, save_top_k=0)
        run = trainer(folder, max_epochs=2, callbacks=[Dump(folder / loss), keep], **shared)
        run.fit(stage, datamodule=served)
