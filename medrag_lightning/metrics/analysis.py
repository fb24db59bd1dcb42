"""What retrieval did to the answers of a test: all that follows from predictions that tell each candidate's own answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medrag_lightning.metrics.bootstrap import Bootstrap
from medrag_lightning.metrics.candidates import CandidateOracle, candidate_oracle
from medrag_lightning.metrics.consistency import Inconsistency, inconsistency
from medrag_lightning.metrics.ledger import Ledger, ledger_of
from medrag_lightning.metrics.pseudo_relevance import PseudoRelevance, judged_retrieval
from medrag_lightning.metrics.systems import by_system, defining_system, ordinary
from medrag_lightning.records import Prediction


@dataclass(frozen=True, slots=True)
class EvidenceAnalysis:
    """The four analyses; each says itself why it could not be made."""

    inconsistency: Inconsistency
    candidates: CandidateOracle
    ledger: Ledger
    relevance: PseudoRelevance

    def as_json(self) -> dict[str, Any]:
        """Plain JSON, without the ledger's entries."""
        return {
            "inconsistency": self.inconsistency.as_json(),
            "candidates": self.candidates.as_json(),
            "ledger": self.ledger.as_json(),
            "pseudo_relevance": self.relevance.as_json(),
        }


def analyse(
    predictions: Sequence[Prediction],
    clusters: Mapping[str, str] | None = None,
    settings: Bootstrap | None = None,
    inconsistent_by: str | None = None,
    margin_nats: float = 0.1,
) -> EvidenceAnalysis:
    """Analyses the predictions of one test, all regimes and rivals together; those without a gold answer and those of
    spoilt evidence are left out.

    Args:
        predictions: as `summarise` takes them.
        clusters: cluster of each query id (`cluster_of`); by default every query is its own.
        settings: how intervals are made.
        inconsistent_by: the system whose candidates define inconsistent retrieval; see `defining_system`.
        margin_nats: by how much a pseudo-relevant candidate makes the gold answer more likely.

    Raises:
        ValueError: no system is called `inconsistent_by`, or the margin is negative.
    """
    settings = settings or Bootstrap()
    known = [p for p in ordinary(predictions) if p.gold is not None]
    clusters = {p.query_id: p.query_id for p in known} if clusters is None else clusters
    systems = by_system(known)
    return EvidenceAnalysis(
        inconsistency(systems, defining_system(list(systems), inconsistent_by), clusters, settings),
        candidate_oracle(systems, clusters, settings),
        ledger_of(systems),
        judged_retrieval(systems, clusters, settings, margin_nats),
    )
