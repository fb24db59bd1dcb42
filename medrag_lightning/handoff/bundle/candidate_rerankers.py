"""The candidate re-ranker of a bundle: its description in ``system.json``, its weights as safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from medrag_lightning.handoff.bundle.encoders import Spec, plain_state
from medrag_lightning.handoff.bundle.layout import CANDIDATE_RERANKER
from medrag_lightning.interfaces import CandidateWeigher
from medrag_lightning.models.candidate_reranker import CandidateReranker, TrainedCandidateReranker, reranker_of


def check_candidate_reranker(weigher: CandidateWeigher | None) -> None:
    """ValueError for a kind that bundles do not know."""
    if weigher is not None and not isinstance(weigher, CandidateReranker | TrainedCandidateReranker):
        raise ValueError(
            f"a bundle cannot hold a candidate re-ranker of class {type(weigher).__name__}; it knows TrainedCandidateReranker"
        )


def save_candidate_reranker(weigher: CandidateWeigher | None, bundle: Path) -> Spec | None:
    """Writes the weights; gives the entry in ``system.json``, or None for a system without one."""
    if weigher is None:
        return None
    made = weigher.loaded() if isinstance(weigher, TrainedCandidateReranker) else weigher
    assert isinstance(made, CandidateReranker), "checked before"
    save_file(plain_state(made), bundle / CANDIDATE_RERANKER)
    return {"description": made.describe(), "file": CANDIDATE_RERANKER}


def load_candidate_reranker(spec: Mapping[str, Any] | None, bundle: Path) -> CandidateReranker | None:
    """The candidate re-ranker of an entry in ``system.json``; None for a bundle without one."""
    return None if spec is None else reranker_of(spec["description"], load_file(bundle / spec["file"]))
