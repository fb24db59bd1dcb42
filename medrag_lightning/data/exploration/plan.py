"""How searches are explored, judged and chosen for a query generator to learn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medrag_lightning.data.tracing.plan import TracePlan
from medrag_lightning.interfaces import Expert
from medrag_lightning.records.searches import TAG

SplitName = Literal["train", "val"]
PairSides = Literal["mixed", "one_corpus"]
NoSupport = Literal["drop", "leave_out"]
DESCRIPTIONS: Mapping[str, str] = {
    "research": "abstracts of medical research articles, in the words of studies: cohorts, hazards, outcomes, trials",
    "wiki": "an encyclopaedia for everybody: what a disease, a drug or a structure of the body is, and what is known of it",
    "book": "textbooks for students and physicians: causes, anatomy, signs on images, diagnosis, treatment",
    "guideline": "clinical guidelines: recommendations for screening, diagnosis, treatment and follow-up",
    "graph": "a graph of medical terms with their definitions and relations. Each query is `term , relation`: one medical "
    "term, a comma, and the relation asked for, such as `pneumothorax , treated by`",
}
"""The five corpora of MedAtlas (HeteroRAG), as an expert is told of them."""


@dataclass(frozen=True, slots=True)
class ExplorationPlan:
    """How an expert writes searches for questions, how they are judged, and what a generator is given to learn.

    Numbers are those of HeteroRAG and of the code of its predecessor where they are known (spec: MQG).

    Args:
        expert: writes and judges.
        folder: where everything lies: ``targets`` (SFT), ``pairs`` (DPO), the expert's replies, statistics, samples.
        corpora: what each corpus holds, by its name, in the order of the tags; null for every corpus that data.source asks by
            name, with the descriptions of MedAtlas's five.
        queries_per_corpus: that the expert writes for each.
        top: documents of each search that are judged.
        most_attempts: times that an expert is asked again whose reply lacks a tag.
        targets_per_query: texts of a question to learn from, at most; each takes one good search of each corpus.
        pairs_per_query: of a question, at most.
        pairs: ``mixed`` draws a bad search of every corpus for the side that is not preferred, as published, so a pair mixes
            which corpus with which words; ``one_corpus`` changes the preferred side in one corpus alone.
        no_support: what a question teaches whose searches all found nothing that supports its answer: ``drop``, nothing, as
            published; ``leave_out``, to search nowhere: a generator learns which questions need no documents, as far as the
            expert can be trusted to have found what there is.
        splits: whose questions are explored.
        batch_size: questions that the expert is given at once; an interruption loses no more than these.
        samples: questions written out to look at, with what was found and said; 0 for none.
        traces: how the verb `trace` has a teacher write traces for stage `reader_trace`; no other setting here bears on it.
    """

    expert: Expert | None = None
    folder: str = "runs/exploration"
    corpora: dict[str, str] | None = None
    queries_per_corpus: int = 6
    top: int = 2
    most_attempts: int = 5
    targets_per_query: int = 3
    pairs_per_query: int = 3
    pairs: PairSides = "mixed"
    no_support: NoSupport = "drop"
    splits: tuple[SplitName, ...] = ("train", "val")
    batch_size: int = 16
    samples: int = 20
    traces: TracePlan | None = None

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"exploration.{name} must be at least {least}, got {getattr(self, name)}")
        if not self.splits or len(set(self.splits)) != len(self.splits):
            raise ValueError(f"exploration.splits must name at least one, each once; got {list(self.splits)}")
        if self.corpora is not None and not self.corpora:
            raise ValueError("exploration.corpora is empty: name what is searched, or leave it null")
        for name, told in (self.corpora or {}).items():
            if not TAG.fullmatch(name):
                raise ValueError(f"exploration.corpora: {name!r} cannot be a tag; use letters, digits, '_', '-' and '.'")
            if not told.strip():
                raise ValueError(f"exploration.corpora.{name} says nothing: an expert must know what the corpus holds")

    @property
    def targets(self) -> Path:
        """Where the texts to learn from lie (`search_files`)."""
        return Path(self.folder) / "targets"

    @property
    def preferences(self) -> Path:
        """Where the preference pairs lie (`preference_files`)."""
        return Path(self.folder) / "pairs"


_LEAST = {
    "queries_per_corpus": 1,
    "top": 1,
    "most_attempts": 0,
    "targets_per_query": 1,
    "pairs_per_query": 1,
    "batch_size": 1,
    "samples": 0,
}
