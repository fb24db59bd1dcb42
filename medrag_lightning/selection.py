"""How many candidates to keep: all of the first k, or as many as their similarities set apart from the rest.

The adaptive rules look at ratios of similarities, which mean something for positive numbers only. Cosines are therefore mapped
by (1 + cos) / 2 first: raw ones give the gap rule NaN, and have the ratio rule keep negatives behind a cut (HeteroRAG spec,
trap 4 and H12). Every rule keeps at least one candidate of any, and a number at the beginning of the list; a calibrated number
(`calibration`, RULE) may be 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.calibration import Calibration

SelectionRule = Literal["log_gap", "ratio", "top_k", "first_k", "calibrated"]
OF_THE_WHOLE_LIST = ("first_k", "calibrated")
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
            `cut`. ``top_k``: the first `k`. These look at each channel's candidates. ``first_k``: the first `k` of all channels
            together. ``calibrated``: the same with the number of a `calibration`, which the verb `calibrate` makes.
        k: most candidates that are kept; of ``calibrated`` it is not asked.
        cut: of the adaptive rules; by default 0.2 for ``log_gap`` and 1.5 for ``ratio``. Choose it on validation
            questions, for each retriever its own.
        scores: ``cosine``: similarities in [-1, 1], mapped by (1 + cos) / 2 (values beyond, by rounding, count as the nearest).
            ``positive``: scores from 0 up, such as BM25, taken as they are.
        calibration: the file that ``calibrated`` reads its number from, when it is first asked.
    """

    rule: SelectionRule = "log_gap"
    k: int = 10
    cut: float | None = None
    scores: Literal["cosine", "positive"] = "cosine"
    calibration: str | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"selection.k must be at least 1, got {self.k}; use NoEvidence for none")
        if self.rule not in DEFAULT_CUT and self.cut is not None:
            raise ValueError(
                f"selection.cut {self.cut} would be ignored with rule {self.rule}; leave it out, or choose log_gap or ratio"
            )
        if (self.rule == "calibrated") != (self.calibration is not None):
            raise ValueError(
                f"selection.calibration {self.calibration} does not fit rule {self.rule}: rule calibrated needs the file that "
                "`python -m medrag_lightning calibrate` wrote, and no other rule reads one"
            )
        if self.rule == "calibrated" and self.k != type(self).k:
            raise ValueError(f"selection.k {self.k} would be ignored: the calibration says how many; leave it out")
        least = {"log_gap": 0.0, "ratio": 1.0}.get(self.rule, -math.inf)
        if self.cut is not None and not (math.isfinite(self.cut) and self.cut > least):
            raise ValueError(f"selection.cut of rule {self.rule} must be a number above {least:g}, got {self.cut}")

    def count(self, score_K: Sequence[float]) -> int:
        """How many of the first candidates to keep: 0 of none, else from 1 to k; a calibration may say 0.

        Raises:
            ValueError: a score is no number, or negative where `scores` is ``positive``; or a later score is higher.
        """
        if self.rule not in DEFAULT_CUT:
            return top_k_count(score_K, self.k if self.calibration is None else _calibrated(self.calibration))
        mapped_K = self._mapped(score_K)
        cut = DEFAULT_CUT[self.rule] if self.cut is None else self.cut
        return (log_gap_count if self.rule == "log_gap" else ratio_count)(mapped_K, cut, self.k)

    def settled(self) -> Selection:
        """The same rule without a file: ``first_k`` for ``calibrated``. ValueError where that keeps no candidate."""
        if self.calibration is None:
            return self
        k = _calibrated(self.calibration)
        if k == 0:
            raise ValueError(f"{self.calibration} found it best to read no evidence; use NoEvidence as the source")
        return Selection("first_k", k)

    def check(self, source: str) -> None:
        """ValueError if the candidates, by their source's fingerprint, are not those that a calibration was made with."""
        if self.calibration is not None:
            _read(self.calibration).check(source=source)

    def fingerprint(self) -> str:
        """sha256 of the settings, and of what a calibration says."""
        told = {name: value for name, value in asdict(self).items() if name != "calibration"}  # as it was before there was one
        if self.calibration is not None:
            told["calibrated"] = _calibrated(self.calibration)
        return fingerprint("selection", told)

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


def _calibrated(path: str) -> int:
    """What a calibration says of the number of candidates; ValueError where it says more than that, or nothing."""
    policy = _read(path).policy
    if policy is None or not policy.plain:
        told = "abstains from everything" if policy is None else str(policy)
        raise ValueError(
            f"{path}: this calibration is no number of candidates ({told}); give it to the answerer (calibration=), or "
            "calibrate without --thresholds and --without_from, and with --fallback least_risk"
        )
    return policy.k


def _read(path: str) -> Calibration:
    file = Path(path)
    return _kept(path, file.stat().st_mtime_ns if file.is_file() else 0)


@lru_cache(maxsize=16)
def _kept(path: str, written_ns: int) -> Calibration:
    """Read once for all queries, and anew where it was written anew."""
    return Calibration.read(path)
