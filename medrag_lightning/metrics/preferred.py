"""How often the answers of one system are preferred to another's, by a judge that sees each pair in both orders.

Source: MIRA reports shares of 200 items that a large model prefers, in one order, and that model had written the training
traces. Both orders cost a second call, and show what the order alone decides: a verdict counts where both agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces.judging import PairJudge, PairTask, Verdict
from medrag_lightning.metrics.bootstrap import Bootstrap, Metric, weighted_mean
from medrag_lightning.metrics.vqa import rouge_l, token_f1

MEASURES = {"token_f1": token_f1, "rouge_l": rouge_l}
SWAPPED: dict[Verdict, Verdict] = {"first": "second", "second": "first", "tie": "tie"}
CHUNK = 64


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and what two systems, `mine` and `theirs`, answer; `cluster` is what is resampled together (a patient)."""

    question: str
    gold: str | None
    mine: str
    theirs: str
    cluster: str


@dataclass(frozen=True, slots=True)
class Preferred:
    """What a judge made of N pairs.

    Attributes:
        win_rate: share of pairs in which mine is preferred in both orders; ties and pairs that the order decides count half.
            1/2: neither is better.
        win, loss, tie: shares in which both orders say so.
        undecided: share in which the two orders disagree.
        swap_consistency: 1 - undecided.
        first_share: of the verdicts that prefer one, the share that prefers what was shown first (mean over pairs); 1/2 for a
            judge without a bias for a place.
        failed: how many pairs were left out, because a call failed.
        notes: what to be wary of.
    """

    win_rate: Metric
    win: Metric
    loss: Metric
    tie: Metric
    undecided: Metric
    swap_consistency: Metric
    first_share: Metric
    failed: int
    notes: tuple[str, ...]


class OverlapJudge:
    """Prefers the answer that shares more words with the right one; implements `interfaces.judging.PairJudge`.

    Args:
        measure: ``token_f1`` or ``rouge_l``, on normalised words.
        margin: a smaller difference is a tie.
    """

    def __init__(self, measure: str = "token_f1", margin: float = 0.0) -> None:
        if measure not in MEASURES:
            raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
        if not 0 <= margin < 1:
            raise ValueError(f"margin must be in [0, 1), got {margin}")
        self.measure, self.margin = measure, margin

    def compare(self, tasks: Sequence[PairTask]) -> list[Verdict | None]:
        """A verdict for each; None where no right answer is known."""
        golds = [task.gold or "" for task in tasks]
        first_N, second_N = (
            MEASURES[self.measure](golds, [getattr(task, name) for task in tasks]) for name in ("first", "second")
        )
        return [self._verdict(float(gain)) for gain in first_N - second_N]

    def fingerprint(self) -> str:
        """Measure and margin."""
        return fingerprint("overlap judge", self.measure, self.margin)

    def _verdict(self, gain: float) -> Verdict | None:
        if gain != gain:
            return None
        return "tie" if abs(gain) <= self.margin else "first" if gain > 0 else "second"


def preferred(
    judge: PairJudge, pairs: Sequence[Pair], teachers: Mapping[str, str] | None = None, bootstrap: Bootstrap | None = None
) -> Preferred:
    """Asks a judge about each pair in both orders.

    Args:
        judge: is asked about at most `CHUNK` tasks at once.
        pairs: of the two systems.
        teachers: fingerprints of what either system learnt from, by name: a judge that is one of them is no independent one.
        bootstrap: of the intervals, over clusters.
    """
    straight = _asked(judge, [PairTask(pair.question, pair.gold, pair.mine, pair.theirs) for pair in pairs])
    turned = _asked(judge, [PairTask(pair.question, pair.gold, pair.theirs, pair.mine) for pair in pairs])
    both, clusters = [], []
    for pair, one, other in zip(pairs, straight, turned, strict=True):
        if one is not None and other is not None:
            both.append((one, SWAPPED[other], other))
            clusters.append(pair.cluster)
    chosen = bootstrap or Bootstrap()

    def share(kind: str) -> list[float]:
        return [float((one if one == other else "undecided") == kind) for one, other, _ in both]

    kinds = {name: share(kind) for name, kind in (("win", "first"), ("loss", "second"), ("tie", "tie"))}
    undecided = share("undecided")
    half = [win + (tie + other) / 2 for win, tie, other in zip(kinds["win"], kinds["tie"], undecided, strict=True)]
    firsts = [[verdict == "first" for verdict in (one, shown) if verdict != "tie"] for one, _, shown in both]
    told = [(float(np.mean(each)), cluster) for each, cluster in zip(firsts, clusters, strict=True) if each]
    return Preferred(
        win_rate=chosen.metric(weighted_mean(half), clusters),
        **{name: chosen.metric(weighted_mean(values), clusters) for name, values in kinds.items()},
        undecided=chosen.metric(weighted_mean(undecided), clusters),
        swap_consistency=chosen.metric(weighted_mean([1 - value for value in undecided]), clusters),
        first_share=chosen.metric(weighted_mean([value for value, _ in told]), [cluster for _, cluster in told]),
        failed=len(pairs) - len(both),
        notes=tuple(_notes(judge, teachers or {}, len(pairs) - len(both))),
    )


def _asked(judge: PairJudge, tasks: Sequence[PairTask]) -> list[Verdict | None]:
    found: list[Verdict | None] = []
    for start in range(0, len(tasks), CHUNK):
        part = tasks[start : start + CHUNK]
        verdicts = judge.compare(part)
        if len(verdicts) != len(part) or any(one is not None and one not in SWAPPED for one in verdicts):
            raise ValueError(
                f"{type(judge).__name__} gave {verdicts[:3]} ... for {len(part)} tasks: one verdict each is needed"
            )
        found += verdicts
    return found


def _notes(judge: PairJudge, teachers: Mapping[str, str], failed: int) -> list[str]:
    mine = judge.fingerprint()
    same = [name for name, theirs in teachers.items() if theirs == mine]
    notes = [
        f"the judge is not independent: it is what {name} learnt from, and may prefer its own style and errors" for name in same
    ]
    return [*notes, *([f"{failed} pairs left out: the judge said nothing of them"] if failed else [])]
