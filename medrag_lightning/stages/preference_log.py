"""What is told of preference pairs, kind by kind: margins, accuracies and both sides' log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed
from torch import Tensor

from medrag_lightning.records import PairKind, Preference

NUMBERS = ("margin", "accuracy", "chosen_logp", "rejected_logp", "chosen_gain", "rejected_gain")


def pair_numbers(pairs: Sequence[Preference], policy_B2: Tensor, reference_B2: Tensor) -> dict[str, Tensor]:
    """Numbers of each pair, (B,), by ``KIND_NAME``, and margin and accuracy over all kinds; NaN for pairs of another kind.

    - ``margin``: what the chosen side gained over the reference less what the rejected side gained, in nats, without beta.
    - ``accuracy``: whether that is positive; one half at zero.
    - ``chosen_logp``, ``rejected_logp``: log-probability of the side's answer, in nats, summed over its tokens.
    - ``chosen_gain``, ``rejected_gain``: the same less the reference's.
    """
    policy_B2 = policy_B2.detach()
    gain_B2 = policy_B2 - reference_B2
    margin_B = gain_B2[:, 0] - gain_B2[:, 1]
    values = (margin_B, (margin_B.sign() + 1) / 2, policy_B2[:, 0], policy_B2[:, 1], gain_B2[:, 0], gain_B2[:, 1])
    found = {"margin": values[0], "accuracy": values[1]}
    for kind in PairKind:
        other_B = torch.tensor([pair.kind is not kind for pair in pairs], dtype=torch.bool, device=margin_B.device)
        of_kind = [value_B.masked_fill(other_B, torch.nan) for value_B in values]
        found |= {f"{kind}_{name}": value_B for name, value_B in zip(NUMBERS, of_kind, strict=True)}
    return found


def means_over_processes(numbers: dict[str, Tensor], world_size: int) -> dict[str, float]:
    """Means over the pairs of all processes that have the number; every process calls this, with the same names.

    A number that no pair has is left out, on every process.
    """
    stacked_NB = torch.stack(list(numbers.values())).double()
    known_NB = ~stacked_NB.isnan()
    sums_2N = torch.stack([stacked_NB.nan_to_num(0.0).sum(1), known_NB.double().sum(1)])
    if world_size > 1:
        torch.distributed.all_reduce(sums_2N)
    totals, counts = sums_2N.tolist()
    return {name: total / count for name, total, count in zip(numbers, totals, counts, strict=True) if count}
