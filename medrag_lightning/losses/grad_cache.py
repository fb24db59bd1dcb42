"""A tower over a batch in chunks, so that memory does not grow with the batch (GradCache: Gao et al. 2021, Section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Inputs = Mapping[str, Tensor]


def in_chunks(run: Callable[[Inputs], Tensor], inputs: Inputs, chunk_size: int, parameters: Sequence[Tensor]) -> Tensor:
    """``run(inputs)``, computed `chunk_size` items at a time, with its exact gradient.

    The forward pass keeps the vectors only. The backward pass runs each chunk again, with the same random numbers (dropout)
    and the same autocast, and adds up its gradients: activations of one chunk exist at a time, for one more forward pass. To
    the autograd engine it is one node with `parameters` as its inputs, so automatic optimisation, DDP and gradient clipping
    work as without it. Not for towers whose items depend on each other (batch normalisation).

    Args:
        run: inputs to (B, D); must depend on the trained weights through `parameters` alone.
        inputs: tensors whose first axis is B. No gradient reaches them.
        chunk_size: items at a time.
        parameters: the weights that get gradients.
    """
    vectors: Tensor = _Chunked.apply(run, inputs, chunk_size, *parameters)  # type: ignore[no-untyped-call]
    return vectors


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Callable[[Inputs], Tensor], inputs: Inputs, chunk_size: int, *parameters: Tensor) -> Tensor:
        """The vectors of all chunks, without a graph."""
        device = parameters[0].device
        ctx.run, ctx.inputs, ctx.chunk_size, ctx.parameters = run, inputs, chunk_size, parameters
        ctx.autocast = (device.type, torch.get_autocast_dtype(device.type), torch.is_autocast_enabled(device.type))
        ctx.states, vectors = [], []
        for chunk in _chunks(inputs, chunk_size):
            ctx.states.append(_random_state(device))
            vectors.append(run(chunk))
        return torch.cat(vectors)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BD: Tensor) -> Any:
        """The gradients of the parameters, chunk after chunk."""
        kind, dtype, enabled = ctx.autocast
        totals: list[Tensor | None] = [None] * len(ctx.parameters)
        parts = zip(_chunks(ctx.inputs, ctx.chunk_size), torch.split(grad_BD, ctx.chunk_size), ctx.states, strict=True)
        with _kept_random_state(ctx.parameters[0].device):
            for chunk, grad, state in parts:
                _set_random_state(ctx.parameters[0].device, state)
                with torch.enable_grad(), torch.autocast(kind, dtype, enabled):
                    vectors = ctx.run(chunk)
                found = torch.autograd.grad(vectors, ctx.parameters, grad, allow_unused=True)
                del vectors  # its graph goes before the next chunk's is built
                totals = [_added(total, new) for total, new in zip(totals, found, strict=True)]
                del found
        return None, None, None, *totals


def _chunks(inputs: Inputs, size: int) -> Iterator[dict[str, Tensor]]:
    count = len(next(iter(inputs.values())))
    for start in range(0, count, size):
        yield {name: value[start : start + size] for name, value in inputs.items()}


def _added(total: Tensor | None, new: Tensor | None) -> Tensor | None:
    """The sum; not in place, because two parameters may have been given one and the same gradient tensor."""
    if total is None or new is None:
        return new if total is None else total
    return total + new


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


@contextmanager
def _kept_random_state(device: torch.device) -> Iterator[None]:
    state = _random_state(device)
    try:
        yield
    finally:
        _set_random_state(device, state)
