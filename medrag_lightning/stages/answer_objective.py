"""The mean negative log-likelihood of answer tokens over a global batch, whatever parts and processes it is computed in."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import Tensor

from medrag_lightning.batches import ReaderBatch
from medrag_lightning.interfaces import Reader
from medrag_lightning.losses import answer_nll
from medrag_lightning.stages.sharding import extra_passes


def global_answer_nll(reader: Reader, batch: ReaderBatch, world_size: int, device: torch.device) -> Tensor:
    """This process's part of the mean NLL over the answer tokens of the global batch, in nats; differentiable.

    DDP averages gradients over processes; dividing each process's sum by (tokens in the global batch / processes) gives the
    mean over all tokens, as one process with the whole batch would.
    """
    parts = [(part.prompts, part.rows) for part in batch.parts if part.rows is not None]
    mine = sum(int(rows.mask_RL.sum()) for _, rows in parts)
    count = float(mean_over_processes(torch.tensor(float(mine), dtype=torch.float64, device=device), world_size))
    more = extra_passes(reader, len(parts), device)  # type: ignore[arg-type]
    losses: list[Any] = [answer_nll(reader.token_logp(prompts, rows), rows.mask_RL, count) for prompts, rows in parts]
    losses += [0.0 * reader.token_logp(*parts[-1]).sum() for _ in range(more)]
    return torch.stack(losses).sum()


def mean_over_processes(value: Tensor, world_size: int) -> Tensor:
    """The mean of a number that each process has."""
    if world_size == 1:
        return value
    value = value.clone()
    torch.distributed.all_reduce(value)
    return value / world_size
