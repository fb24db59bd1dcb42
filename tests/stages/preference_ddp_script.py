"""Fits the preference toy on some processes with the same global batch. Run by test_preference_ddp.py."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from ddp_script import Dump
from lightning.pytorch.callbacks import ModelCheckpoint
from preference_world import PairData, pairs_of, stage, trainer

from medrag_lightning.stages.preference_objective import PreferenceLoss


def some(query):
    """Groups of one, two and no pair: the kinds fall unevenly on the processes, and so do pairs without a reference."""
    n, pairs = int(query.id[1:]), pairs_of(query)
    kept = [pair for i, pair in enumerate(pairs) if (n + i) % 3]
    if n % 2:
        return kept
    known = [replace(pair, chosen=replace(pair.chosen, reference_nats=-11.0)) for pair in kept]
    return [replace(pair, rejected=replace(pair.rejected, reference_nats=-11.5)) for pair in known]


def run(folder: Path, processes: int) -> None:
    """Two epochs in global batches of six groups."""
    served = PairData(folder, some, batch_size=6 // processes)
    descent = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    made = stage(optimizer=descent, loss=PreferenceLoss(nll_weight=0.3), reference="stored", blind_after=2)
    shared = {"devices": processes, "strategy": "ddp_fork" if processes > 1 else "auto", "enable_checkpointing": True}
    callbacks = [Dump(folder), ModelCheckpoint(folder, save_last=True, save_top_k=0)]
    trainer(folder, max_epochs=2, log_every_n_steps=1, callbacks=callbacks, **shared).fit(made, datamodule=served)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), int(sys.argv[2]))
