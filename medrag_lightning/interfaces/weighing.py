"""Candidates weighed by what they say, after the reader has read each of them alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medrag_lightning.batches import CandidateBatch
from medrag_lightning.records import Candidate, Query


@runtime_checkable
class CandidateWeigher(Protocol):
    """Weights of the candidates that were read one a prompt, in place of those by retrieval score alone."""

    def weights(
        self, query: Query, candidates: Sequence[Candidate], logp_KC: NDArray[np.float64] | None
    ) -> NDArray[np.float64]:
        """Weights w_K that sum to 1, for at least one candidate.

        `logp_KC` are the log-probabilities (nats) of a closed question's choices with each candidate alone; None for an open
        question.
        """
        ...

    def fingerprint(self) -> str:
        """sha256 over everything that the weights depend on."""
        ...


@runtime_checkable
class LearnedWeigher(CandidateWeigher, Protocol):
    """What stage `candidate_reranker` trains (at run time a torch module)."""

    def prepare(self, seen: CandidateBatch) -> None:
        """Takes the scale of the features from all training questions; once. ValueError where it could learn nothing."""
        ...

    def log_weights(self, batch: CandidateBatch) -> Tensor:
        """float32 (B, K): log w, normalised over the candidates; -inf on padding. Differentiable."""
        ...

    def image_share(self, batch: CandidateBatch) -> Tensor | None:
        """(B,) in [0, 1]: what candidates found by the image weigh together; None where kinds are not weighed apart."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a checkpoint must keep to rebuild it, as plain JSON."""
        ...

    def restore(self, description: Mapping[str, Any]) -> None:
        """Rebuilds from a checkpoint's description; ValueError where it contradicts the settings."""
        ...
