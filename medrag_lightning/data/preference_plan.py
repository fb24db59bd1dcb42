"""Which preference pairs are built from a score table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PairRules = Literal["hkpt_v1", "hkpt_v2", "rag_pt", "kb_pt", "given"]
"""Which conditions make a pair: HeteroRAG's HKPT as in its first and second version, MMed-RAG's RAG-PT, RULE's KB-PT. `given`:
none; the pairs are there, made by something else (the verb `explore`)."""
NOT_FOR_GIVEN = ("kinds", "repeats", "balance", "open_metric", "open_threshold")
PairKindName = Literal["cross_modality", "knowledge_utilisation", "knowledge_robustness"]
SplitName = Literal["train", "val"]


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class PreferencePlan:
    """From which scores preference pairs are built, by which rules, and where they lie.

    Args:
        folder: of the pairs; what is there of the same scores and rules is read, not built again.
        table: folder of the score table; it must have been scored with the same `data.knowledge`.
        rules: which conditions make a pair; ``given`` reads the finished pairs of `folder`, and needs no scores.
        kinds: which kinds of pairs are kept; null for all that the rules make.
        splits: whose questions make pairs; those of `val` are validated on.
        repeats: pairs of the same inputs and words about different evidence (robustness makes up to three): ``once`` keeps one,
            ``weighted`` keeps one with the weight of all, ``all`` keeps them.
        balance: ``none`` leaves each pair its weight; ``kinds`` scales them within each kind so that all kinds of a split
            weigh the same together: robustness pairs, which come from the reader's mistakes with evidence, are few.
        max_pairs: so many training pairs, drawn; null for all.
        open_metric: what makes a free-text answer right, for open questions that the table has the reader's own words of.
        open_threshold: least value of `open_metric` that counts as right, in (0, 1].
        samples: pairs written out as JSON lines and as a page to look at.
    """

    folder: str = "runs/pairs"
    table: str = "runs/scores"
    rules: PairRules = "hkpt_v2"
    kinds: tuple[PairKindName, ...] | None = None
    splits: tuple[SplitName, ...] = ("train", "val")
    repeats: Literal["once", "weighted", "all"] = "once"
    balance: Literal["none", "kinds"] = "none"
    max_pairs: int | None = None
    open_metric: Literal["exact_match", "token_f1", "rouge_l"] = "exact_match"
    open_threshold: float = 1.0
    samples: int = 20

    def __post_init__(self) -> None:
        for name in ("kinds", "splits"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) != len(values)):
                raise ValueError(f"preference.{name} must name at least one, each once; got {list(values)}")
        ignored = [name for name in NOT_FOR_GIVEN if getattr(self, name) != getattr(type(self), name)]
        if self.rules == "given" and ignored:
            raise ValueError(f"preference.{ignored[0]} would be ignored: with rules: given the pairs are taken as they are")
        if self.max_pairs is not None and self.max_pairs < 1:
            raise ValueError(f"preference.max_pairs must be at least 1, got {self.max_pairs}")
        if not 0 < self.open_threshold <= 1:
            raise ValueError(f"preference.open_threshold must lie in (0, 1], got {self.open_threshold}")
        if self.samples < 0:
            raise ValueError(f"preference.samples must not be negative, got {self.samples}")
