"""Stops training at the first loss that is not a number, before it reaches the weights or a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from callbacks.last_checkpoint import last_path

REMEDIES = (
    "a lower learning rate (--model.init_args.optimizer.init_args.lr), a longer warm-up "
    "(--model.init_args.schedule.warmup_share), --trainer.gradient_clip_val 1.0, or --trainer.precision 32-true "
    "(on a GPU: bf16-mixed instead of 16-mixed)"
)


class FiniteLoss(L.Callback):
    """Raises ValueError, which names step, learning rate and queries, at a loss that is nan or infinite.

    The loss is looked at before its gradients are made, so the weights stay as the step before left them; trained weights are
    looked at whenever a checkpoint is saved, so that one with a nan never replaces a good one. All processes stop together.
    With precision ``16-mixed`` a loss may overflow once in a while, which the scaler is there for; it must do so
    `patience` times in a row there.

    Args:
        patience: losses in a row that are not finite, for ``16-mixed``; elsewhere the first one stops training.
    """

    def __init__(self, patience: int = 20) -> None:
        if patience < 1:
            raise ValueError(f"FiniteLoss needs patience >= 1, got {patience}")
        self.patience = patience
        self._in_a_row = 0
        self._shown: Any = None

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Remembers what is shown."""
        self._shown = batch

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Looks at the loss of this batch."""
        if not _anywhere(trainer, not bool(torch.isfinite(loss.detach()).all())):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if self._in_a_row >= (self.patience if str(trainer.precision) == "16-mixed" else 1):
            value = float(loss.detach().sum())
            raise ValueError(
                f"the loss is {value} {self._where(trainer)}. The weights are those before this step. {_go_on(trainer)}"
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Forgets what is shown."""
        self._shown = None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Looks at every trained weight."""
        bad = [
            name
            for name, parameter in pl_module.named_parameters()
            if parameter.requires_grad and not bool(torch.isfinite(_local(parameter.detach())).all())
        ]
        if _anywhere(trainer, bool(bad)):
            named = f"{len(bad)} trained weights such as {bad[0]}" if bad else "trained weights of another process"
            raise ValueError(
                f"{named} are nan or infinite {self._where(trainer)}; no checkpoint was written. {_go_on(trainer)}"
            )

    def _where(self, trainer: L.Trainer) -> str:
        rates = sorted({group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups})
        told = f"at step {trainer.global_step} (epoch {trainer.current_epoch}), learning rate {', '.join(map(str, rates))}"
        ids = _query_ids(self._shown)
        return f"{told}, precision {trainer.precision}" + (f", queries {', '.join(ids)}" if ids else "")


def _query_ids(batch: Any) -> list[str]:
    """The ids of the first queries of a batch, where it tells any."""
    examples = getattr(batch, "examples", None) or (batch if isinstance(batch, list | tuple) else ())
    queries = [getattr(example, "query", None) for example in examples]
    ids = list(dict.fromkeys(str(query.id) for query in queries if query is not None))
    return [*ids[:5], *(["..."] if len(ids) > 5 else [])]


def _go_on(trainer: L.Trainer) -> str:
    last = Path(last_path(trainer))
    there = f"{last} is whole: go on from it (--ckpt_path last)" if last.is_file() else "Start again"
    return f"{there} with {REMEDIES}; if it is always the same queries, look at their images and answers"


def _anywhere(trainer: L.Trainer, mine: bool) -> bool:
    """Whether any process says so; they must stop together, or the others would wait for one that has left."""
    return mine if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(mine, all=False)


def _local(tensor: Tensor) -> Tensor:
    share = getattr(tensor, "to_local", None)
    return tensor if share is None else share()
