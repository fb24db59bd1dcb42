"""What the callbacks that report on an evaluation ask of the trainer, the stage and the data module."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import lightning as L

from medrag_lightning.records import Document, Prediction, Query


@runtime_checkable
class AnsweringStage(Protocol):
    """A stage that answers queries: after an evaluation it holds every prediction, of all regimes and processes, once."""

    predictions: list[Prediction]


@runtime_checkable
class HoldsQueries(Protocol):
    """A data module that hands out its queries."""

    def split_queries(self, split: str) -> list[Query]:
        """The queries of `train`, `val` or `test`."""
        ...


@runtime_checkable
class KnowsCorpus(Protocol):
    """A data module that tells its evidence, and which questions have a twin in it."""

    def documents(self) -> list[Document]:
        """The evidence corpus."""
        ...

    def duplicated(self, split: str) -> dict[str, bool]:
        """Whether each question of a split has a twin in the corpus, by id; without those that cannot be judged."""
        ...


def run_folder(trainer: L.Trainer) -> Path:
    """The folder of this run."""
    return Path(trainer.default_root_dir)


def answering_stage(stage: L.LightningModule, who: L.Callback) -> AnsweringStage | None:
    """`stage` if it answers queries; None for one that trains or embeds, on which there is nothing to report.

    Raises:
        ValueError: the stage is fed queries to read and keeps no predictions; the message names the callback.
    """
    if isinstance(stage, AnsweringStage):
        return stage
    if getattr(stage, "feed", None) == "reading":
        raise ValueError(
            f"{type(who).__name__} reports on what a stage answers, and {type(stage).__name__}, which reads queries, keeps no "
            "`predictions`; let it keep them, or remove the callback from trainer.callbacks"
        )
    return None


def query_holder(trainer: L.Trainer, who: L.Callback) -> HoldsQueries:
    """The data module, or ValueError that names the callback that needs one."""
    data: object = getattr(trainer, "datamodule", None)
    if not isinstance(data, HoldsQueries):
        raise ValueError(
            f"{type(who).__name__} needs a data module with `split_queries`, got {type(data).__name__}; "
            "use medrag_lightning.data.module.MedragData or remove the callback from trainer.callbacks"
        )
    return data
