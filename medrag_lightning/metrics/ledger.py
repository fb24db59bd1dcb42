"""Per question: did evidence help, hurt, or change nothing? With the exact test of whether it helps more than it hurts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from medrag_lightning.metrics.systems import NO_RETRIEVAL, NOT_TOLD, item_correct
from medrag_lightning.records import Prediction, Regime


class Outcome(StrEnum):
    """What evidence did to the correctness of an answer."""

    HELPED = "helped"
    HURT = "hurt"
    BOTH_RIGHT = "both right"
    BOTH_WRONG = "both wrong"


@dataclass(frozen=True, slots=True)
class Entry:
    """One question under one system, beside the same reader without evidence. `gold_gain_nats`: how much more likely the
    gold answer became (open: a token); None where unknown.
    """

    system: str
    query_id: str
    answer_type: str
    question: str
    gold: str
    without: str | None
    answer: str | None
    outcome: Outcome
    gold_gain_nats: float | None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "outcome": str(self.outcome)}


@dataclass(frozen=True, slots=True)
class Account:
    """The sums of a system's ledger. `p_value`: two-sided exact sign test on helped against hurt (McNemar's exact test); it
    takes questions as independent, which questions about one patient are not: the paired interval knows better.
    """

    helped: int
    hurt: int
    both_right: int
    both_wrong: int
    p_value: float

    @property
    def unchanged(self) -> int:
        """Questions whose correctness evidence did not change."""
        return self.both_right + self.both_wrong


@dataclass(frozen=True, slots=True)
class Ledger:
    """The accounts by system and every entry; `reason` says why there are none."""

    accounts: Mapping[str, Account]
    entries: tuple[Entry, ...]
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """The accounts as plain JSON; the entries go to a file of their own."""
        return {"accounts": {system: asdict(account) for system, account in self.accounts.items()}, "reason": self.reason}


def ledger_of(systems: Mapping[str, Sequence[Prediction]]) -> Ledger:
    """Every system that was shown evidence against the same reader without: the queries that both answered."""
    alone = {p.query_id: p for p in systems.get(NO_RETRIEVAL, ())}
    if not alone:
        return Ledger({}, (), NOT_TOLD)
    accounts, entries = {}, []
    for system, mine in systems.items():
        shown = [p for p in mine if p.regime is not Regime.NONE and p.query_id in alone and p.gold is not None]
        if not shown:
            continue
        found = [_entry(system, alone[p.query_id], p) for p in shown]
        count = Counter(entry.outcome for entry in found)
        helped, hurt = count[Outcome.HELPED], count[Outcome.HURT]
        both = (count[Outcome.BOTH_RIGHT], count[Outcome.BOTH_WRONG])
        accounts[system] = Account(helped, hurt, *both, sign_test(helped, hurt))
        entries += found
    return Ledger(accounts, tuple(entries))


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p-value of a fair coin giving `wins` and `losses`, or something as uneven; 1 without either."""
    total = wins + losses
    tail = sum(math.comb(total, k) for k in range(min(wins, losses) + 1))
    return float(min(1.0, 2 * tail / 2**total))


def _entry(system: str, before: Prediction, after: Prediction) -> Entry:
    was, now = item_correct(before), item_correct(after)
    changed = Outcome.HELPED if now else Outcome.HURT
    same = Outcome.BOTH_RIGHT if now else Outcome.BOTH_WRONG
    gain = None
    if before.gold_logp_nats is not None and after.gold_logp_nats is not None:
        gain = after.gold_logp_nats - before.gold_logp_nats
    return Entry(
        system, after.query_id, str(after.answer_type), after.question, after.gold or "", before.answer, after.answer,
        same if was == now else changed, gain if gain is None or math.isfinite(gain) else None,
    )  # fmt: skip
