"""The batches that a probe runs: the longest samples, a few ordinary batches, some of each evaluation. Part of the child."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medrag_lightning.data.sampler import SampleKey

LOOKED_AT, LOOK_SECONDS = 512, 5.0
ORDINARY, ORDINARY_SECONDS, FEWEST = 12, 20.0, 2
FEW_LOADERS = 10
RUNG_FACTOR = 4


@dataclass(slots=True)
class Served:
    """A batch that was handed out: ``longest``, ``cold``, ``warm`` or an evaluation's; how long it took to make."""

    kind: str
    samples: int
    data_seconds: float
    tokens: int = 0


class TrainingProbe:
    """Stands in for the training loader: ever more of the longest samples, then ordinary batches, twice.

    Args:
        loader: the real one.
        batch_size: the real one.
    """

    def __init__(self, loader: Any, batch_size: int) -> None:
        self.items, self.collate, self.batch_size = loader.dataset, loader.collate_fn, batch_size
        ordinary: list[Sequence[SampleKey]] = []
        for keys in loader.sampler:
            ordinary.append(keys)
            if len(ordinary) == ORDINARY:
                break
        self.ordinary = ordinary
        self.rungs = rungs(min(batch_size, len(self.items)))
        self.served: list[Served] = []
        self.looked_at = 0

    def __len__(self) -> int:
        """At most so many; time may be up before."""
        return len(self.rungs) + 2 * len(self.ordinary)

    def __iter__(self) -> Iterator[Any]:
        longest = self._longest()
        for size in self.rungs:
            yield self._made("longest", longest[:size])
        ran = 0
        for kind in ("cold", "warm"):
            began = time.perf_counter()
            for number, keys in enumerate(self.ordinary if kind == "cold" else self.ordinary[:ran]):
                if number >= FEWEST and time.perf_counter() - began > ORDINARY_SECONDS:
                    break
                ran += kind == "cold"
                yield self._made(kind, keys)

    def _made(self, kind: str, keys: Sequence[SampleKey]) -> Any:
        began = time.perf_counter()
        batch = self.collate(self.items[list(keys)])
        self.served.append(Served(kind, len(keys), time.perf_counter() - began, int(getattr(batch, "token_count", 0))))
        return batch

    def _longest(self) -> list[SampleKey]:
        """As many samples as a batch has, the longest first, of those that there was time to look at."""
        order = np.random.default_rng(0).permutation(len(self.items))[:LOOKED_AT]
        began = time.perf_counter()
        lengths: dict[SampleKey, int] = {}
        for place in order:
            key = SampleKey(0, int(place))
            lengths[key] = int(getattr(self.collate(self.items[[key]]), "token_count", 0))
            if time.perf_counter() - began > LOOK_SECONDS:
                break
        self.looked_at = len(lengths)
        found = sorted(lengths, key=lambda key: -lengths[key])
        return [found[number % len(found)] for number in range(self.batch_size)]


class EvaluationProbe:
    """Stands in for a loader of an evaluation: some of its batches, evenly spaced; the first of them twice, to warm up."""

    def __init__(self, loader: Any, phase: str, wanted: int, warms_up: bool) -> None:
        self.dataset, self.collate, self.phase = loader.dataset, loader.collate_fn, phase
        every = list(loader.sampler)
        self.batches, self.items = len(every), _count(self.dataset, every)
        places = np.unique(np.linspace(0, max(0, len(every) - 1), min(wanted, len(every))).astype(int))
        self.chosen = [every[int(place)] for place in places]
        if warms_up and self.chosen:
            self.chosen = [self.chosen[0], *self.chosen]
        self.first = int(warms_up and bool(self.chosen))
        self.served: list[Served] = []

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[Any]:
        for keys in self.chosen:
            began = time.perf_counter()
            batch = self.collate(self.dataset[list(keys)])
            self.served.append(Served(self.phase, len(keys), time.perf_counter() - began))
            yield batch


def _count(items: Any, batches: Sequence[Sequence[SampleKey]]) -> int:
    """What is read in all: of items that are packs, what is in them."""
    packs = getattr(items, "packs", None)
    return sum(len(keys) if packs is None else sum(len(packs[key.place]) for key in keys) for keys in batches)


def rungs(batch_size: int) -> list[int]:
    """1, 4, 16, ..., then the batch size, twice: the optimizer's states are there from its first step on."""
    sizes = [1]
    while sizes[-1] * RUNG_FACTOR < batch_size:
        sizes.append(sizes[-1] * RUNG_FACTOR)
    return [*sizes, batch_size, batch_size]


def evaluation_probes(make: Callable[[], Any], phase: str, wanted: int = 3) -> list[EvaluationProbe]:
    """Probes in place of the loaders that `make` makes."""
    made = make()
    loaders = list(made) if isinstance(made, list | tuple) else [made]
    each = wanted if len(loaders) <= FEW_LOADERS else 1
    return [EvaluationProbe(loader, phase, each, number == 0) for number, loader in enumerate(loaders)]
