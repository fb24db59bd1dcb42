"""A reader that does not fit one GPU: its weights, gradients and optimizer states shared out over processes (FSDP2).

With Lightning's ModelParallelStrategy every decoder layer is a group of its own, gathered when it computes and given back
right after; what lies around the layers is one more group. In evaluation all weights are gathered once, since processes then
compute different numbers of passes and none may wait for another: a device must hold them, though nothing else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

METHODS = ("token_logp", "generate")


def shard(reader: nn.Module, mesh: Any) -> None:
    """Shards `reader` in place over the mesh's dimension ``data_parallel``.

    Args:
        reader: with weights, and with `decoder_layers`.
        mesh: of Lightning's ModelParallelStrategy.

    Raises:
        ValueError: the strategy also splits tensors, which readers are not made for, or saves in pieces; or the reader does
            not say what its layers are.
    """
    if mesh["tensor_parallel"].size() != 1:
        raise ValueError(
            f"ModelParallelStrategy splits tensors over {mesh['tensor_parallel'].size()} processes; readers are sharded only: "
            "set tensor_parallel_size: 1 and data_parallel_size to the number of all processes"
        )
    layers = getattr(reader, "decoder_layers", None)
    if layers is None:
        raise ValueError(f"{type(reader).__name__} has no decoder_layers; it cannot be sharded: use strategy ddp")
    over = mesh["data_parallel"]
    for layer in layers():
        fully_shard(layer, mesh=over, reshard_after_forward=True)
    fully_shard(reader, mesh=over, reshard_after_forward=False)
    for name in METHODS:
        register_fsdp_forward_method(reader, name)


def gather(reader: nn.Module) -> None:
    """All weights on every process until `release`."""
    for module in _sharded(reader):
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()


def release(reader: nn.Module) -> None:
    """Every process back to its share."""
    for module in _sharded(reader):
        module.reshard()
        module.set_reshard_after_forward(module is not reader, recurse=False)


def extra_passes(reader: nn.Module, mine: int, device: torch.device) -> int:
    """How many passes without effect this process must add, so that all gather weights equally often; 0 if not sharded."""
    if not isinstance(reader, FSDPModule):
        return 0
    most = torch.tensor(mine, device=device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return int(most) - mine


def _sharded(reader: nn.Module) -> list[Any]:
    return [module for module in reader.modules() if isinstance(module, FSDPModule)]
