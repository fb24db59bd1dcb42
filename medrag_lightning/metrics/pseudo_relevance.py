"""How good retrieval is, judged by the frozen reader instead of by people.

A candidate is pseudo-relevant for a query when the reader, shown it alone, finds the gold answer more likely than without any
evidence, by more than a margin. Every candidate that any system showed is judged; recall is over that pool, as in pooled
evaluation (Sparck Jones and van Rijsbergen 1975), so it is comparable between the systems of one test and nowhere else.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medrag_lightning.metrics.bootstrap import Bootstrap, weighted_mean
from medrag_lightning.metrics.compared import Compared, compare
from medrag_lightning.metrics.consistency import NO_CANDIDATES
from medrag_lightning.metrics.systems import NO_RETRIEVAL, NOT_TOLD
from medrag_lightning.records import AnswerType, Prediction, Regime

Judged = Mapping[str, Mapping[str, bool]]


@dataclass(frozen=True, slots=True)
class PseudoRelevance:
    """Measures by name, then by system.

    Attributes:
        measures: ``precision``: share of a query's candidates that are pseudo-relevant. ``recall``, ``recall_at_1``: share of
            the query's pseudo-relevant candidates that the system found, among all of its own or as its first. ``mrr``:
            reciprocal rank of its first one. The last three are over the queries that have one in the pool.
        judged, relevant: (query, candidate) pairs in the pool, and how many are pseudo-relevant.
        margin_nats: by how much the gold answer must become more likely.
        reason: why there is nothing; empty otherwise.
    """

    measures: Mapping[str, Mapping[str, Compared]]
    judged: int
    relevant: int
    margin_nats: float
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            **{name: {system: one.as_json() for system, one in rows.items()} for name, rows in self.measures.items()},
            "judged": self.judged,
            "relevant": self.relevant,
            "margin_nats": self.margin_nats,
            "reason": self.reason,
        }


def judge(systems: Mapping[str, Sequence[Prediction]], margin_nats: float) -> dict[str, dict[str, bool]]:
    """By query id, then by document id: whether the reader finds the gold answer more likely with the document, by more than
    `margin_nats` (open questions: a token).
    """
    alone = {p.query_id: p.gold_logp_nats for p in systems.get(NO_RETRIEVAL, ())}
    judged: dict[str, dict[str, bool]] = defaultdict(dict)
    for mine in systems.values():
        for p in mine:
            base = alone.get(p.query_id)
            if base is None:
                continue
            for document, logp in zip(p.cited, _gold_logps(p), strict=False):
                helps = logp - base > margin_nats
                judged[p.query_id][document] = judged[p.query_id].get(document, False) or helps
    return dict(judged)


def judged_retrieval(
    systems: Mapping[str, Sequence[Prediction]], clusters: Mapping[str, str], settings: Bootstrap, margin_nats: float = 0.1
) -> PseudoRelevance:
    """Precision, recall and MRR of every system that shows evidence, by the reader's own judgement.

    Raises:
        ValueError: the margin is negative.
    """
    if not margin_nats >= 0:
        raise ValueError(f"the margin of pseudo-relevance must be 0 or more nats, got {margin_nats}")
    if NO_RETRIEVAL not in systems:
        return PseudoRelevance({}, 0, 0, margin_nats, NOT_TOLD)
    judged = judge(systems, margin_nats)
    if not judged:
        return PseudoRelevance({}, 0, 0, margin_nats, NO_CANDIDATES)
    shown = {name: [p for p in mine if p.regime is not Regime.NONE] for name, mine in systems.items()}
    values: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for name, mine in shown.items():
        if mine:
            for measure, of_query in _measures(mine, judged).items():
                values[measure][name] = of_query
    return PseudoRelevance(
        {measure: compare(of_system, weighted_mean, clusters, settings) for measure, of_system in values.items()},
        sum(map(len, judged.values())),
        sum(sum(row.values()) for row in judged.values()),
        margin_nats,
    )


def _measures(predictions: Sequence[Prediction], judged: Judged) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {"precision": {}, "recall": {}, "recall_at_1": {}, "mrr": {}}
    for p in predictions:
        told = judged.get(p.query_id)
        if told is None:
            continue
        hits = [told.get(document, False) for document in dict.fromkeys(p.cited)]
        if hits:
            found["precision"][p.query_id] = sum(hits) / len(hits)
        if pool := sum(told.values()):
            found["recall"][p.query_id] = sum(hits) / pool
            found["recall_at_1"][p.query_id] = sum(hits[:1]) / pool
            found["mrr"][p.query_id] = 1 / (hits.index(True) + 1) if any(hits) else 0.0
    return found


def _gold_logps(p: Prediction) -> list[float]:
    """Log-probability of the gold answer under each candidate alone; empty where it is not known."""
    if p.gold is None:
        return []
    if p.answer_type is AnswerType.OPEN:
        return [row[0] if row else math.nan for row in p.candidate_logp_nats]
    return [row[p.choices.index(p.gold)] for row in p.candidate_logp_nats] if p.gold in p.choices else []
