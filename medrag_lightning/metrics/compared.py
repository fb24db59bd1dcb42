"""One measure of several systems, each with its interval and its paired difference to the retrieved system."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from medrag_lightning.metrics.bootstrap import Bootstrap, Floats, Metric, Statistic
from medrag_lightning.metrics.systems import RETRIEVED

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Compared:
    """A system's value, and by how much the reference system is above it on the queries that both have (None: itself)."""

    value: Metric
    reference_minus: Metric | None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"value": self.value.as_json(), "reference_minus": self.reference_minus and self.reference_minus.as_json()}


def compare(
    items: Mapping[str, Mapping[str, T]],
    statistic: Callable[[Sequence[T]], Statistic],
    clusters: Mapping[str, str],
    settings: Bootstrap,
    reference: str = RETRIEVED,
) -> dict[str, Compared]:
    """`statistic` of every system's items, and paired bootstrap intervals of the differences to `reference`.

    Args:
        items: by system, then by query id, what the statistic is made of. Both systems of a difference are resampled alike.
        statistic: from the items in a fixed order to a statistic of their weights (`bootstrap`).
        clusters: cluster of each query id.
        settings: of the bootstrap.
        reference: the system that the others are held against.
    """
    own = items.get(reference)
    found = {}
    for system, mine in items.items():
        value = settings.metric(statistic(list(mine.values())), [clusters[name] for name in mine]) if mine else _no_items()
        minus = None
        if system != reference:
            both = [name for name in mine if own is not None and name in own]
            if own is None or not both:
                minus = Metric.missing(f"no query in common with {reference!r}")
            else:
                gap = difference(statistic([own[name] for name in both]), statistic([mine[name] for name in both]))
                minus = settings.metric(gap, [clusters[name] for name in both])
        found[system] = Compared(value, minus)
    return found


def difference(one: Statistic, other: Statistic) -> Statistic:
    """One statistic minus another of the same items."""

    def statistic(weights_FN: Floats) -> Floats:
        return one(weights_FN) - other(weights_FN)

    return statistic


def _no_items() -> Metric:
    return Metric.missing("no items")
