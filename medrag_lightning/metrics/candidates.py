"""What the candidates of a query could have given: the oracle that picks the best of them, and the regret against it.

Source: JOMED, oracle analysis. A system may exceed its oracle: a mixture can pick an answer that no candidate picks alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medrag_lightning.metrics.bootstrap import Bootstrap, Metric, weighted_mean
from medrag_lightning.metrics.compared import Compared, compare
from medrag_lightning.metrics.consistency import NO_CANDIDATES
from medrag_lightning.metrics.systems import answer_correct, item_correct
from medrag_lightning.records import Prediction


@dataclass(frozen=True, slots=True)
class CandidateOracle:
    """By system: `oracle`, the share of queries that some candidate alone gets right; `regret`, that minus the system's own
    share; `single`, the share that the first, second, ... candidate gets right alone. `reason` says why there is nothing.
    """

    oracle: Mapping[str, Compared]
    regret: Mapping[str, Compared]
    single: Mapping[str, tuple[Metric, ...]]
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "oracle": {system: one.as_json() for system, one in self.oracle.items()},
            "regret": {system: one.as_json() for system, one in self.regret.items()},
            "single": {system: [metric.as_json() for metric in row] for system, row in self.single.items()},
            "reason": self.reason,
        }


def candidates_right(prediction: Prediction) -> list[bool] | None:
    """Whether each candidate, read alone, leads to the right answer (closed: the class; open: exact match).

    Where nothing was found, the answer without evidence is the only one there was. None: not known.
    """
    if prediction.gold is None or (prediction.cited and not prediction.candidate_answers):
        return None
    return [bool(answer_correct(prediction, answer)) for answer in prediction.candidate_answers or (prediction.answer,)]


def candidate_oracle(
    systems: Mapping[str, Sequence[Prediction]], clusters: Mapping[str, str], settings: Bootstrap
) -> CandidateOracle:
    """Oracle and regret of every system that read its candidates one by one; closed and open questions together."""
    right: dict[str, dict[str, list[bool]]] = {}
    own: dict[str, dict[str, float]] = {}
    for name, mine in systems.items():
        if any(p.candidate_answers for p in mine):
            right[name] = {p.query_id: told for p in mine if (told := candidates_right(p)) is not None}
            own[name] = {p.query_id: float(item_correct(p) or False) for p in mine}
    if not right:
        return CandidateOracle({}, {}, {}, NO_CANDIDATES)
    best = {name: {query_id: float(any(told)) for query_id, told in rows.items()} for name, rows in right.items()}
    lost = {name: {query_id: best[name][query_id] - own[name][query_id] for query_id in rows} for name, rows in best.items()}
    return CandidateOracle(
        compare(best, weighted_mean, clusters, settings),
        compare(lost, weighted_mean, clusters, settings),
        {name: _single(rows, clusters, settings) for name, rows in right.items()},
    )


def _single(right: Mapping[str, list[bool]], clusters: Mapping[str, str], settings: Bootstrap) -> tuple[Metric, ...]:
    metrics = []
    for place in range(max(map(len, right.values()), default=0)):
        mine = {query_id: float(told[place]) for query_id, told in right.items() if place < len(told)}
        metrics.append(settings.metric(weighted_mean(list(mine.values())), [clusters[query_id] for query_id in mine]))
    return tuple(metrics)
