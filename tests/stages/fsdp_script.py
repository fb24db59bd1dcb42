"""Fits the toy on 1 process, or sharded over 2, with the same global batch; writes a checkpoint. Run by test_sharding.py."""

import sys
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from toy import data, reader, trainer

from callbacks.checkpoint_io import AtomicCheckpointIO
from callbacks.guards import FrozenGuard
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.lora import LoraSettings
from medrag_lightning.stages.reader_raft import ReaderRaft


def stage(adapter: str) -> ReaderRaft:
    of = reader() if adapter == "full" else HfReader(reader().backbone, LoraSettings(rank=2, projector=True))
    return ReaderRaft(of, partial(torch.optim.SGD, lr=0.05, momentum=0.9), max_new_tokens=4)


if __name__ == "__main__":
    folder, processes, adapter = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    shared = {"devices": processes, "enable_checkpointing": True, "plugins": [AtomicCheckpointIO()], "gradient_clip_val": 0.5}

    def fit(epochs: int, ckpt_path: Path | None) -> None:
        keep = ModelCheckpoint(folder, save_last=True, save_top_k=0)
        served = data(folder, batch_size=6 // processes, eval_batch_size=3)
        sharded = ModelParallelStrategy(data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=False)
        shared["strategy"] = sharded if processes > 1 else "auto"
        made = trainer(folder, max_epochs=epochs, callbacks=[keep, FrozenGuard()], **shared)
        made.fit(stage(adapter), datamodule=served, ckpt_path=ckpt_path, weights_only=True)
        if made.is_global_zero:
            torch.save({name: float(value) for name, value in made.callback_metrics.items()}, folder / "fit.pt")
        made.strategy.barrier()

    fit(1, None)
    fit(2, folder / "last.ckpt")
