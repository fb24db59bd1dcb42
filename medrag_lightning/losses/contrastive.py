"""Contrastive losses of image-text pairs: CLIP's softmax and SigLIP's sigmoid, duplicates counted as positives.

`clip_softmax` and `siglip` are the definitions. `contrastive_loss` gives the same value and gradient without ever holding
the B x B similarities: it goes through blocks of rows, whose gradients have a closed form, and over all processes.

    logit_ij = exp(log_scale) * image_i . text_j + bias       positive_ij: pair j has the image or the text of pair i, or
                                                              (where facts are told) states nearly the same
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

ContrastiveKind = Literal["clip", "siglip"]


def clip_softmax(image_BD: Tensor, text_BD: Tensor, log_scale: Tensor, positive_BB: Tensor) -> Tensor:
    """CLIP's loss (Radford et al. 2021, InfoNCE both ways) with soft targets, in nats; mean over pairs and directions.

    With P_i the positives of row i, itself among them: ``L = mean_i -(1/|P_i|) sum_(j in P_i) log softmax_j(logit_ij)``,
    averaged with the same over columns. Perfect value: ``mean_i log |P_i|``, which is 0 without duplicates. Vectors that are
    all equal give ``log B``.

    Args:
        image_BD, text_BD: unit vectors; row i of both is pair i.
        log_scale: log of the inverse temperature, a scalar.
        positive_BB: symmetric, True on the diagonal.
    """
    logits_BB = log_scale.float().exp() * image_BD.float() @ text_BD.float().T
    both = [(logits_BB, positive_BB), (logits_BB.T, positive_BB.T)]
    rows = [_spread(positive).mul(logits.log_softmax(dim=1)).sum(dim=1).neg() for logits, positive in both]
    return torch.stack(rows).mean()


def siglip(image_BD: Tensor, text_BD: Tensor, log_scale: Tensor, bias: Tensor, positive_BB: Tensor) -> Tensor:
    """SigLIP's loss (Zhai et al. 2023, Equation 1), in nats; sum over the texts of an image, mean over images.

    ``L = (1/B) sum_ij -log sigmoid(z_ij logit_ij)`` with z = +1 on positives and -1 elsewhere. Perfect value: 0.

    Args:
        image_BD, text_BD: unit vectors; row i of both is pair i.
        log_scale: log of the inverse temperature, a scalar.
        bias: added to every logit, a scalar.
        positive_BB: symmetric, True on the diagonal.
    """
    logits_BB = log_scale.float().exp() * image_BD.float() @ text_BD.float().T + bias.float()
    sign_BB = positive_BB.float() * 2 - 1
    return functional.softplus(-sign_BB * logits_BB).sum() / len(logits_BB)


def duplicates(mine_B2: Tensor, other_B2: Tensor) -> Tensor:
    """True where two pairs have the same image key (column 0) or the same text key (column 1)."""
    return (mine_B2[:, None, 0] == other_B2[None, :, 0]) | (mine_B2[:, None, 1] == other_B2[None, :, 1])


def factual_twins(mine_BF: Tensor, other_BF: Tensor, least_f1: float) -> Tensor:
    """True where the facts of two pairs have an F1, ``2 |both| / (|mine| + |other|)``, of at least `least_f1`.

    Args:
        mine_BF, other_BF: int64 numbers of the facts of each pair, each once, -1 behind them; no facts are like nothing.
        least_f1: in (0, 1].
    """
    numbers, place = torch.unique(torch.cat([mine_BF, other_BF]), return_inverse=True)
    stated = torch.zeros(len(place), max(len(numbers), 1), device=place.device)
    stated.scatter_(1, place, 1.0)
    stated[:, : int((numbers < 0).sum())] = 0  # sorted, so what stands for nothing comes first
    mine, other = stated[: len(mine_BF)], stated[len(mine_BF) :]
    total = mine.sum(dim=1)[:, None] + other.sum(dim=1)[None]
    return (2 * mine @ other.T >= least_f1 * total - 1e-4) & (mine.sum(dim=1)[:, None] > 0) & (other.sum(dim=1)[None] > 0)


def contrastive_loss(
    kind: ContrastiveKind,
    image_BD: Tensor,
    text_BD: Tensor,
    key_B2: Tensor,
    log_scale: Tensor,
    bias: Tensor | None = None,
    block_rows: int | None = None,
    processes: int = 1,
    fact_f1: float | None = None,
) -> Tensor:
    """`clip_softmax` or `siglip` over the pairs of all processes, `block_rows` rows of similarities at a time.

    Each process takes the rows of its own pairs. The mean of the returned values over processes is the loss of the whole
    batch, and so is the mean of the gradients, which is what DDP takes. Batches may differ in size. Differentiable once.

    Args:
        kind: which loss.
        image_BD, text_BD: unit vectors of this process's pairs.
        key_B2: int64 image and text keys of this process's pairs; equal ones are positives. With `fact_f1` more columns follow,
            as many in every process: the numbers of the facts that each pair states (`factual_twins`).
        log_scale: log of the inverse temperature.
        bias: added to every logit; for `siglip` only.
        block_rows: rows of the similarity matrix that are held at a time; None for all.
        processes: of `torch.distributed`'s default group; 1 if there is none.
        fact_f1: least F1 of the facts of two pairs that makes them positives; None for keys alone.
    """
    if (kind == "siglip") != (bias is not None):
        raise ValueError(f"loss {kind!r} {'needs a' if kind == 'siglip' else 'has no'} bias")
    settings = _Settings(kind, block_rows or max(1, len(key_B2)), processes, fact_f1)
    loss: Tensor = _Blockwise.apply(image_BD, text_BD, log_scale, bias, key_B2, settings)  # type: ignore[no-untyped-call]
    return loss


@dataclass(frozen=True, slots=True)
class _Settings:
    kind: ContrastiveKind
    block_rows: int
    processes: int
    fact_f1: float | None


class _Blockwise(torch.autograd.Function):
    """The gradient is known as soon as the loss is, and is all that is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        image_BD: Tensor,
        text_BD: Tensor,
        log_scale: Tensor,
        bias: Tensor | None,
        key_B2: Tensor,
        settings: _Settings,
    ) -> Tensor:
        """Loss and gradients of this process's rows; gradients of vectors are summed over processes."""
        with torch.autocast(image_BD.device.type, enabled=False):
            sums = _Sums.of(image_BD, text_BD, key_B2, settings.processes)
            sums.fact_f1 = settings.fact_f1
            for rows in sums.blocks(settings.block_rows):
                if settings.kind == "clip":
                    sums.add_softmax(rows, log_scale.float())
                else:
                    assert bias is not None
                    sums.add_sigmoid(rows, log_scale.float(), bias.float())
            grad_image, grad_text = sums.grads_of_own(settings.processes)
        share = settings.processes / sums.total_pairs
        ctx.save_for_backward(grad_image * share, grad_text * share, sums.grad_log_scale * share, sums.grad_bias * share)
        ctx.has_bias = bias is not None
        return sums.loss * share

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        """The kept gradients, scaled."""
        image, text, log_scale, bias = ctx.saved_tensors
        return grad * image, grad * text, grad * log_scale, grad * bias if ctx.has_bias else None, None, None


class _Sums:
    """Loss and gradients, summed over rows."""

    def __init__(self, image_BD: Tensor, text_BD: Tensor, key_B2: Tensor, own: slice) -> None:
        self.image_BD, self.text_BD, self.key_B2, self.own = image_BD, text_BD, key_B2, own
        self.grad_image_BD, self.grad_text_BD = torch.zeros_like(image_BD), torch.zeros_like(text_BD)
        self.loss, self.grad_log_scale, self.grad_bias = (image_BD.new_zeros(()) for _ in range(3))
        self.total_pairs = len(key_B2)
        self.fact_f1: float | None = None

    @classmethod
    def of(cls, image_BD: Tensor, text_BD: Tensor, key_B2: Tensor, processes: int) -> _Sums:
        """The vectors and keys of all processes, and which are this one's."""
        image, text = image_BD.detach().float(), text_BD.detach().float()
        if processes == 1:
            return cls(image, text, key_B2, slice(0, len(key_B2)))
        counts = _counts(len(key_B2), processes, image.device)
        start = sum(counts[: torch.distributed.get_rank()])
        image, text, keys = (_gather(part, counts) for part in (image, text, key_B2))
        return cls(image, text, keys, slice(start, start + len(key_B2)))

    def blocks(self, size: int) -> Iterator[slice]:
        """This process's rows, `size` at a time."""
        for start in range(self.own.start, self.own.stop, size):
            yield slice(start, min(start + size, self.own.stop))

    def add_softmax(self, rows: slice, log_scale: Tensor) -> None:
        """Half of the rows' loss as images among texts, and half as texts among images."""
        target = _spread(self._positive(rows)) / 2
        sides = [(self.image_BD, self.text_BD), (self.text_BD, self.image_BD)]
        grads = [(self.grad_image_BD, self.grad_text_BD), (self.grad_text_BD, self.grad_image_BD)]
        for (mine, other), (grad_mine, grad_other) in zip(sides, grads, strict=True):
            logits = log_scale.exp() * mine[rows] @ other.T
            logp = logits.log_softmax(dim=1)
            self.loss -= (target * logp).sum()
            self._add_grads(rows, logits, logp.exp_().div_(2).sub_(target), log_scale, (mine, other, grad_mine, grad_other))

    def add_sigmoid(self, rows: slice, log_scale: Tensor, bias: Tensor) -> None:
        """The rows' images against all texts."""
        sign = self._positive(rows).float().mul_(2).sub_(1)
        scaled = log_scale.exp() * self.image_BD[rows] @ self.text_BD.T
        signed = sign * (scaled + bias)
        self.loss += functional.softplus(-signed).sum()
        grad = sign.neg_().mul_(torch.sigmoid(-signed))
        self.grad_bias += grad.sum()
        self._add_grads(rows, scaled, grad, log_scale, (self.image_BD, self.text_BD, self.grad_image_BD, self.grad_text_BD))

    def _add_grads(
        self, rows: slice, scaled: Tensor, grad: Tensor, log_scale: Tensor, sides: tuple[Tensor, Tensor, Tensor, Tensor]
    ) -> None:
        """From the gradient of `scaled` = exp(log_scale) mine other^T to those of its parts."""
        mine, other, grad_mine, grad_other = sides
        self.grad_log_scale += (grad * scaled).sum()
        grad = grad.mul_(log_scale.exp())
        grad_mine[rows].addmm_(grad, other)
        grad_other.addmm_(grad.T, mine[rows])

    def _positive(self, rows: slice) -> Tensor:
        """Which pairs are positives of the rows."""
        found = duplicates(self.key_B2[rows], self.key_B2)
        if self.fact_f1 is None:
            return found
        return found | factual_twins(self.key_B2[rows, 2:], self.key_B2[:, 2:], self.fact_f1)

    def grads_of_own(self, processes: int) -> tuple[Tensor, Tensor]:
        """Gradients of this process's vectors, from the rows of all processes."""
        for grad in (self.grad_image_BD, self.grad_text_BD):
            if processes > 1:
                torch.distributed.all_reduce(grad)
        return self.grad_image_BD[self.own], self.grad_text_BD[self.own]


def _spread(positive: Tensor) -> Tensor:
    """Targets that spread a weight of 1 evenly over the positives of a row."""
    return positive.float() / positive.sum(dim=1, keepdim=True).clamp(min=1)


def _counts(mine: int, processes: int, device: torch.device) -> list[int]:
    found = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(processes)]
    torch.distributed.all_gather(found, torch.tensor([mine], device=device))
    return [int(count) for count in found]


def _gather(part: Tensor, counts: list[int]) -> Tensor:
    """Rows of all processes in order of rank; processes may have different numbers of rows."""
    padded = torch.cat([part, part.new_zeros((max(counts) - len(part), *part.shape[1:]))])
    found = [torch.empty_like(padded) for _ in counts]
    torch.distributed.all_gather(found, padded)
    return torch.cat([rows[:count] for rows, count in zip(found, counts, strict=True)])
