"""Guards: what must not change during training, checked."""

from __future__ import annotations

import hashlib
from typing import Any

import lightning as L
import torch
from torch import Tensor


class FrozenGuard(L.Callback):
    """Raises RuntimeError, naming the parameter, if a weight that is not trained has moved.

    Args:
        sample_every_n_steps: how often a few values of every frozen parameter are compared; 0 for never.
        sample_size: how many values of a parameter, evenly spaced, a sample holds.

    Every value is compared at the end of training, by a digest taken at its start. Buffers are not looked at.
    """

    def __init__(self, sample_every_n_steps: int = 100, sample_size: int = 16) -> None:
        if sample_every_n_steps < 0 or sample_size < 1:
            raise ValueError(
                f"FrozenGuard needs sample_every_n_steps >= 0 and sample_size >= 1, "
                f"got {sample_every_n_steps} and {sample_size}"
            )
        self.sample_every_n_steps, self.sample_size = sample_every_n_steps, sample_size
        self._samples: dict[str, Tensor] = {}
        self._digests: dict[str, str] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes the digests."""
        frozen = self._frozen(pl_module)
        self._digests = {name: digest(tensor) for name, tensor in frozen.items()}
        self._samples = {name: self._sample(tensor).clone() for name, tensor in frozen.items()}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compares the samples."""
        every = self.sample_every_n_steps
        if every == 0 or trainer.global_step % every != 0:
            return
        parameters = dict(pl_module.named_parameters())
        for name, before in self._samples.items():
            if not torch.equal(self._sample(parameters[name].detach()), before):
                raise RuntimeError(f"frozen parameter {name} moved before step {trainer.global_step}")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compares everything."""
        parameters = dict(pl_module.named_parameters())
        moved = [name for name, before in self._digests.items() if digest(parameters[name].detach()) != before]
        if moved:
            raise RuntimeError(f"{len(moved)} frozen parameters moved during training, the first is {moved[0]}")

    def _frozen(self, module: L.LightningModule) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in module.named_parameters() if not tensor.requires_grad}

    def _sample(self, tensor: Tensor) -> Tensor:
        flat = _local(tensor).reshape(-1)
        return flat[:: max(1, flat.numel() // self.sample_size)][: self.sample_size]


def _local(tensor: Tensor) -> Tensor:
    """This process's share of a tensor that is shared out over processes; any other tensor as it is."""
    share = getattr(tensor, "to_local", None)
    return tensor if share is None else share()


def digest(tensor: Tensor) -> str:
    """sha256 of a tensor's bytes, whatever its dtype; bit-equal tensors only have the same digest."""
    flat = _local(tensor).detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest()
