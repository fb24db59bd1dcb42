"""What a query generator learns: texts of good searches, and pairs of good and bad ones (HeteroRAG, MQG, steps 3 to 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeVar

import numpy as np

from medrag_lightning.data.exploration.plan import PairSides
from medrag_lightning.data.exploration.verdicts import Judged
from medrag_lightning.records import Searches

Drawn = TypeVar("Drawn")
TRIES = 20  # draws for each text or pair that is wanted, before no other is thought to be left


@dataclass(frozen=True, slots=True)
class Sorted:
    """The good and the bad wordings of a question, by corpus; every corpus is there.

    `may_leave_out`: where none is good, to search nowhere is what is good.
    """

    good: Mapping[str, tuple[str, ...]]
    bad: Mapping[str, tuple[str, ...]]
    may_leave_out: bool = False

    @property
    def searches_nowhere(self) -> bool:
        """Whether it teaches to leave every corpus out: nothing that was found supports the answer."""
        return self.may_leave_out and self.has_bad and not self.has_good

    @property
    def lacks(self) -> str | None:
        """The side that a pair would lack."""
        if self.searches_nowhere or (self.has_good and self.has_bad):
            return None
        return "no negative" if self.has_good else "no positive"

    @property
    def has_good(self) -> bool:
        """Whether there is a good search in any corpus."""
        return any(self.good.values())

    @property
    def has_bad(self) -> bool:
        """Whether there is a bad one in any corpus."""
        return any(self.bad.values())


def sort(judged: Sequence[Judged], corpora: Sequence[str], may_leave_out: bool = False) -> Sorted:
    """One question's wordings by what was said of them."""

    def words(corpus: str, good: bool) -> tuple[str, ...]:
        return tuple(one.words for one in judged if one.corpus == corpus and one.is_good is good)

    return Sorted({name: words(name, True) for name in corpora}, {name: words(name, False) for name in corpora}, may_leave_out)


def targets(told: Sorted, count: int, rng: np.random.Generator) -> list[Searches]:
    """At most `count` different texts to learn, drawn: one good search of each corpus, nothing where it has none.

    None for a question without any good search, which teaches nothing about what to ask; or one that asks nothing, if it may.
    """
    if not told.has_good and not told.searches_nowhere:
        return []
    possible = prod(max(1, len(mine)) for mine in told.good.values())
    return _different(lambda: _one_each(told.good, rng), min(count, possible))


def pairs(told: Sorted, count: int, how: PairSides, rng: np.random.Generator) -> list[tuple[Searches, Searches]]:
    """At most `count` different (preferred, not preferred), drawn. None for a question that lacks a side.

    ``mixed``: a good search of each corpus against a bad one of each. Where a corpus has no good search, leaving it out is
    preferred to asking it; where it has no bad one, the other side leaves it out. ``one_corpus``: the sides differ in one
    corpus that has a bad search; the corpora take turns. Where nothing supports the answer, at most one pair: to search nowhere
    against a bad search.
    """
    if told.lacks is not None:
        return []
    count = min(count, 1) if told.searches_nowhere else count
    goods = prod(max(1, len(mine)) for mine in told.good.values())
    if how == "mixed":
        bads = prod(max(1, len(mine)) for mine in told.bad.values())
        return _different(lambda: (_one_each(told.good, rng), _one_each(told.bad, rng)), min(count, goods * bads))
    changed = [name for name, mine in told.bad.items() if mine]
    order = [changed[place] for place in rng.permutation(len(changed))]
    turn = iter(range(10**9))

    def one() -> tuple[Searches, Searches]:
        chosen, corpus = _one_each(told.good, rng), order[next(turn) % len(order)]
        other = {**dict(chosen), corpus: told.bad[corpus][int(rng.integers(len(told.bad[corpus])))]}
        return chosen, tuple((name, other[name]) for name in told.good if name in other)

    return _different(one, min(count, goods * sum(len(told.bad[name]) for name in changed)))


def _one_each(wordings: Mapping[str, Sequence[str]], rng: np.random.Generator) -> Searches:
    return tuple((name, mine[int(rng.integers(len(mine)))]) for name, mine in wordings.items() if mine)


def _different(draw: Callable[[], Drawn], count: int) -> list[Drawn]:
    found: dict[Drawn, None] = {}
    for _ in range(TRIES * count):
        found[draw()] = None
        if len(found) == count:
            break
    return list(found)
