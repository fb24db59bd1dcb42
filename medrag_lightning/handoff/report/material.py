"""Everything that the sections of a report draw on, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from medrag_lightning.handoff.report.names import Names
from medrag_lightning.handoff.report.predictions import read_predictions
from medrag_lightning.handoff.report.removal import Removal, fused_again, fusion_of, remove_each
from medrag_lightning.handoff.report.run_files import Found, Run
from medrag_lightning.handoff.report.thumbnails import Thumbnails
from medrag_lightning.handoff.report.world import World
from medrag_lightning.metrics import RETRIEVED, Entry, Ledger, Unit, by_system, cluster_of, ledger_of
from medrag_lightning.mixture import Fusion
from medrag_lightning.records import Prediction, Query


@dataclass(frozen=True)
class Validation:
    """Predictions of validation questions by the same system, and in words how well they stand for it."""

    predictions: list[Prediction]
    words: str


@dataclass
class Material:
    """A run's traces as records.

    Attributes:
        found: the run and its recipe's other steps.
        compared: other runs to be set beside it.
        world: what its tables hold.
        names: what questions and documents are called.
        thumbnails: collects the images that are shown.
        queries_shown: so many questions in the gallery.
        max_risk: the risk that an abstention rule may have; None for half of the risk of answering everything.
        reread: removal effects by question id, where the reader has read again.
        reread_note: how they came about.
    """

    found: Found
    compared: tuple[Run, ...]
    world: World
    names: Names
    thumbnails: Thumbnails
    queries_shown: int = 100
    max_risk: float | None = None
    reread: Mapping[str, tuple[Removal, ...]] = field(default_factory=dict)
    reread_note: str = ""

    @property
    def run(self) -> Run:
        """The run that is reported on."""
        return self.found.main

    @cached_property
    def predictions(self) -> list[Prediction]:
        """All predictions of the run's split, those of spoilt evidence among them."""
        return read_predictions(self.run.predictions(self.run.split)) if self.run.split else []

    @cached_property
    def systems(self) -> dict[str, list[Prediction]]:
        """Ordinary predictions by system."""
        return by_system(self.predictions)

    @cached_property
    def main_system(self) -> str:
        """The system that the report is about."""
        return RETRIEVED if RETRIEVED in self.systems or not self.systems else next(iter(self.systems))

    @property
    def main(self) -> list[Prediction]:
        """Its predictions."""
        return self.systems.get(self.main_system, [])

    @cached_property
    def ledger(self) -> Ledger:
        """What evidence did to each answer."""
        return ledger_of(self.systems)

    @cached_property
    def entry_of(self) -> dict[str, Entry]:
        """The ledger's entry of each question, of the main system."""
        return {entry.query_id: entry for entry in self.ledger.entries if entry.system == self.main_system}

    @cached_property
    def fusion(self) -> Fusion | None:
        """How the run mixes its candidates; None where its config does not tell."""
        return fusion_of(self.run.setting("model", "fusion"))

    def clusters(self, query_ids: list[str]) -> list[str]:
        """Which questions are resampled together: those of one patient, where that is known."""
        known = cluster_of((self.world.queries[name] for name in query_ids if name in self.world.queries), Unit.PATIENT)
        return [known.get(name, f"query:{name}") for name in query_ids]

    def query(self, query_id: str) -> Query | None:
        """The question's record, where the tables are there."""
        return self.world.queries.get(query_id)

    def removals(self, prediction: Prediction) -> tuple[Removal, ...]:
        """The effect of leaving out each candidate. ValueError says why it is not known."""
        if prediction.query_id in self.reread:
            return self.reread[prediction.query_id]
        if self.fusion is None:
            raise ValueError("the run left no config.yaml that tells how candidates are mixed")
        return remove_each(prediction, self.fusion)

    @cached_property
    def validation(self) -> Validation | None:
        """What may choose a threshold: predictions on validation questions, mixed as this run mixes."""
        if self.run.split == "val":
            return Validation(self.main, "validation questions, those of this report")
        own = [
            (self.run, "validation questions of this run; after a fit, answered with its last weights, not with the best ones")
        ]
        validated = [run for run in self.found.steps if run.verb == "validate"]
        steps = [(run, f"validation questions of step {run.name}") for run in reversed(validated)]
        for run, words in (*own, *steps):
            if run.predictions("val").is_file():
                mine = by_system(read_predictions(run.predictions("val"))).get(RETRIEVED, [])
                mixed = [p if self.fusion is None else fused_again(p, self.fusion) for p in mine]
                return Validation(mixed, words)
        return None
