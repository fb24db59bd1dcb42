"""How many threads one process computes with on a CPU."""

from __future__ import annotations

import lightning as L
import torch


class CpuThreads(L.Callback):
    """Sets torch's intra-op threads for the run. A small model is faster on one: its operations are shorter than a wake-up.

    Results of a run are repeated bit by bit only with the same number of threads, so it belongs in the configuration.

    Args:
        threads: at least 1.
    """

    def __init__(self, threads: int) -> None:
        if threads < 1:
            raise ValueError(f"CpuThreads needs threads >= 1, got {threads}")
        self.threads = threads

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Before anything is computed."""
        torch.set_num_threads(self.threads)
