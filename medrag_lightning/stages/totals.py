"""Means over the queries of all processes, for a stage that evaluates batch by batch."""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor


class Totals:
    """Sums and counts by name; NaN stands for a query that has no such number."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Takes the numbers of a batch, (B,) each, summed in float64."""
        for name, value_B in values.items():
            sums, known_B = self._sums.setdefault(name, [0.0, 0.0]), ~value_B.isnan()
            sums[0] += float(value_B.double()[known_B].sum())
            sums[1] += float(known_B.sum())

    def means(self, world_size: int) -> dict[str, float]:
        """Means over all processes (every one calls this), and a fresh start; a name without numbers is left out."""
        gathered: list[dict[str, list[float]]] = [self._sums]
        if world_size > 1:
            gathered = [{} for _ in range(world_size)]
            torch.distributed.all_gather_object(gathered, self._sums)
        self._sums = {}
        names = dict.fromkeys(name for one in gathered for name in one)
        totals = {name: [sum(one.get(name, [0.0, 0.0])[place] for one in gathered) for place in (0, 1)] for name in names}
        return {name: total / count for name, (total, count) in totals.items() if count}
