"""Which samples come in which batch: a pure function of (seed, epoch), sharded over processes, resumable mid-epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, Sampler

from medrag_lightning.artifacts import counter_rng


class SampleKey(NamedTuple):
    """One draw: the epoch it belongs to (what counter-based randomness needs) and the sample's position in the set."""

    epoch: int
    place: int


class Position(NamedTuple):
    """How far training has come: whole epochs, and batches of the epoch under way."""

    epoch: int
    batches: int


class TrainSampler(Sampler[list[SampleKey]]):
    """Shuffled global batches, split over `world` processes; every sample comes exactly once an epoch.

    A global batch holds ``batch_size * world`` samples, and process `rank` takes every `world`-th of them, so the set of
    samples in global batch b does not depend on the number of processes when ``batch_size * world`` stays the same.
    A remainder smaller than `world` joins the batch before it, so no process is left without a sample.

    Args:
        size: number of samples N.
        batch_size: samples a process takes from a global batch.
        seed: of the order.
        rank, world: this process and the number of them.
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        if size < world:
            raise ValueError(f"{size} training samples cannot be shared by {world} processes; use fewer processes")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.size, self.batch_size, self.seed, self.rank, self.world = size, batch_size, seed, rank, world
        self._position = Position(0, 0)

    def __len__(self) -> int:
        """Batches in a whole epoch, the same on every process."""
        step = self.batch_size * self.world
        full, rest = divmod(self.size, step)
        return max(1, full + (rest >= self.world))

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch; a new epoch starts at its first batch."""
        if epoch != self._position.epoch:
            self._position = Position(epoch, 0)

    def start_at(self, position: Position) -> None:
        """The next iteration begins at `position`; a position at the end of an epoch is the start of the next."""
        whole, batches = divmod(position.batches, len(self))
        self._position = Position(position.epoch + whole, batches)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, start = self._position
        order = counter_rng(self.seed, "order", epoch).permutation(self.size)
        step = self.batch_size * self.world
        for batch in range(start, len(self)):
            stop = self.size if batch == len(self) - 1 else (batch + 1) * step
            mine = order[batch * step : stop][self.rank :: self.world]
            yield [SampleKey(epoch, int(place)) for place in mine]


class EvalSampler(Sampler[list[SampleKey]]):
    """Every sample exactly once over all processes, in order, without padding: metrics are over exactly N samples."""

    def __init__(self, size: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.indices = range(rank, size, world)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for start in range(0, len(self.indices), self.batch_size):
            yield [SampleKey(0, place) for place in self.indices[start : start + self.batch_size]]


class ResumableLoader(DataLoader[Any]):
    """A loader whose state is what training has *consumed*, not what its workers have prefetched.

    The data module stores `state_dict` in every checkpoint and calls `load_state_dict` when it makes the loader again.

    Args:
        position: says how far training has come at the time of a checkpoint.
    """

    def __init__(self, *args: Any, position: Callable[[], Position], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._consumed = position

    def state_dict(self) -> dict[str, int]:
        """Position, and what it is only valid for."""
        sampler = self._train_sampler()
        return {**self._consumed()._asdict(), **self._identity(sampler)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """ValueError if size, global batch or seed differ from the run that wrote `state`."""
        sampler = self._train_sampler()
        for name, mine in self._identity(sampler).items():
            if state[name] != mine:
                raise ValueError(
                    f"cannot resume: the checkpoint was written with {name}={state[name]}, this run has {name}={mine}. "
                    "Give the same data, batch size and seed, or start a new run from it with --model.init_args.init_from."
                )
        sampler.start_at(Position(state["epoch"], state["batches"]))

    def _train_sampler(self) -> TrainSampler:
        assert isinstance(self.sampler, TrainSampler)
        return self.sampler

    @staticmethod
    def _identity(sampler: TrainSampler) -> dict[str, int]:
        return {"size": sampler.size, "global_batch_size": sampler.batch_size * sampler.world, "seed": sampler.seed}


def position_of(fit_loop: Any) -> Position:
    """Where training stands when a checkpoint is written; see the restart stages of Lightning's fit loop."""
    epochs, batches = fit_loop.epoch_progress.current, fit_loop.epoch_loop.batch_progress.current
    under_way = epochs.started > epochs.processed
    return Position(epochs.processed, batches.processed if under_way else 0)
