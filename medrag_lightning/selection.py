"""How many candidates to keep: all of the first k, or as many as their similarities set apart from the rest.

The adaptive rules look at ratios of similarities, which mean something for positive numbers only. Cosines are therefore mapped
by (1 + cos) / 2 first: raw ones give the gap rule NaN, and have the ratio rule keep negatives behind a cut (HeteroRAG spec,
trap 4 and H12). Every rule keeps at least one candidate of any, and a number at the beginning of the list.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Literal

from medrag_lightning.artifacts import fingerprint

SelectionRule = Literal["log_gap", "ratio", "top_k"]
DEFAULT_CUT: dict[SelectionRule, float] = {"log_gap": 0.2, "ratio": 1.5}
_SAME = 1e-6  # scores that rise by no more are equal but for rounding


def top_k_count(score_K: Sequence[float], k: int) -> int:
    """The first k, or all there are."""
    return min(len(score_K), k)


def log_gap_count(score_K: Sequence[float], gamma: float, k: int) -> int:
    """How many stand before the first gap u_i = ln(S_i / S_{i+1}) > gamma, at most k (MMed-RAG, HeteroRAG's reports).

    Args:
        score_K: scores from 0 up, best first. A fall to 0 is a gap, nothing follows 0 but 0, and two zeros have no gap.
        gamma: the gap that ends the list, from 0 up.
        k: cap.
    """
    for place, (one, other) in enumerate(pairwise(score_K[:k]), 1):
        gap = 0.0 if one == other else math.inf if other <= 0 else math.log(one / other)
        if gap > gamma:
            return place
    return top_k_count(score_K, k)


def ratio_count(score_K: Sequence[float], ratio: float, k: int) -> int:
    """How many have S_1 / S_j < ratio, at most k, and no fewer than one (MMed-RAG's released script).

    Args:
        score_K: scores from 0 up, best first. A score of 0 is kept beside a first score of 0 only.
        ratio: more than 1.
        k: cap.
    """
    first = score_K[0] if score_K else 0.0
    kept = [one == first or (one > 0 and first / one < ratio) for one in score_K[:k]]
    return kept.index(False) if False in kept else len(kept)


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class Selection:
    """A rule for how many candidates of a list to keep.

    Args:
        rule: ``log_gap``: up to the first gap ln(S_i / S_{i+1}) greater than `cut`. ``ratio``: those with S_1 / S_j less than
            `cut`. ``top_k``: the first `k`.
        k: most candidates that are kept.
        cut: of the adaptive rules; by default 0.2 for ``log_gap`` and 1.5 for ``ratio``. Choose it on validation
            questions, for each retriever its own.
        scores: ``cosine``: similarities in [-1, 1], mapped by (1 + cos) / 2 (values beyond, by rounding, count as the nearest).
            ``positive``: scores from 0 up, such as BM25, taken as they are.
    """

    rule: SelectionRule = "log_gap"
    k: int = 10
    cut: float | None = None
    scores: Literal["cosine", "positive"] = "cosine"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"selection.k must be at least 1, got {self.k}; use NoEvidence for none")
        if self.rule == "top_k" and self.cut is not None:
            raise ValueError(
                f"selection.cut {self.cut} would be ignored with rule top_k; leave it out, or choose log_gap or ratio"
            )
        least = {"log_gap": 0.0, "ratio": 1.0}.get(self.rule, -math.inf)
        if self.cut is not None and not (math.isfinite(self.cut) and self.cut > least):
            raise ValueError(f"selection.cut of rule {self.rule} must be a number above {least:g}, got {self.cut}")

    def count(self, score_K: Sequence[float]) -> int:
        """How many of the first candidates to keep: 0 of none, else from 1 to k.

        Raises:
            ValueError: a score is no number, or negative where `scores` is ``positive``; or a later score is higher.
        """
        if self.rule == "top_k":
            return top_k_count(score_K, self.k)
        mapped_K = self._mapped(score_K)
        cut = DEFAULT_CUT[self.rule] if self.cut is None else self.cut
        return (log_gap_count if self.rule == "log_gap" else ratio_count)(mapped_K, cut, self.k)

    def fingerprint(self) -> str:
        """sha256 of the settings."""
        return fingerprint("selection", asdict(self))

    def _mapped(self, score_K: Sequence[float]) -> list[float]:
        """Scores from 0 up that never rise."""
        if any(math.isnan(score) for score in score_K):
            raise ValueError("a candidate's score is no number (NaN): this source gives no scores that a selection can go by")
        if any(other > one + _SAME for one, other in pairwise(score_K)):
            raise ValueError(
                "scores rise along the list of candidates, so that a gap between neighbours says nothing; select within each "
                "part (CorpusSearch), or from a source of one order (one channel, FusedSearch)"
            )
        if self.scores == "cosine":
            mapped = [(1 + min(max(score, -1.0), 1.0)) / 2 for score in score_K]
        elif any(score < 0 for score in score_K):
            raise ValueError(f"selection.scores positive: a score is {min(score_K)}; for similarities use scores: cosine")
        else:
            mapped = list(score_K)
        for place in range(1, len(mapped)):  # what rounding made higher
            mapped[place] = min(mapped[place], mapped[place - 1])
        return mapped
