"""Index refresh: documents embedded and candidates searched anew while both sides of a retriever train."""

from __future__ import annotations

import logging
from typing import Any, Protocol, runtime_checkable

import lightning as L

from medrag_lightning.interfaces import CandidateSource, QueryTowers, Refreshable, Retriever

logger = logging.getLogger(__name__)


@runtime_checkable
class SearchesAgain(Protocol):
    """A data module that can find its candidates anew."""

    source: CandidateSource

    def search_again(self) -> None:
        """Finds the candidates anew; loaders made later serve them."""
        ...


class IndexRefresh(L.Callback):
    """Every so many epochs embeds the documents with the towers as they are by then, rebuilds the indexes and searches again.

    For stage `retriever_kl` with `models.both_sides.BothSides`; with query heads the passages stay, so nothing grows stale. New
    candidates take effect with the next epoch's loader, so the trainer's `reload_dataloaders_every_n_epochs` must be
    `every_n_epochs`, too. Candidates that were not scored are an error there that says how to score them, unless
    `data.distillation.pool` is ``scored``. A run resumed after its first refresh goes on with candidates searched by its first
    weights until the next refresh. Every process embeds all documents.

    Args:
        every_n_epochs: training epochs between two refreshes.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs must be at least 1, got {every_n_epochs}")
        self.every_n_epochs = every_n_epochs

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses a stage, data or trainer with which a refresh would do nothing."""
        if stage != "fit":
            return
        towers: Any = getattr(pl_module, "heads", None)
        if not isinstance(towers, QueryTowers) or not towers.trains_passages:
            raise ValueError("IndexRefresh would do nothing: passages do not train; use models.both_sides.BothSides")
        data: Any = getattr(trainer, "datamodule", None)
        if not isinstance(data, SearchesAgain) or not isinstance(data.source, Refreshable):
            raise ValueError("IndexRefresh needs a data module whose source can be refreshed; use LiveSearch")
        reload = getattr(trainer, "reload_dataloaders_every_n_epochs")  # noqa: B009  (Lightning sets it outside its class)
        if reload != self.every_n_epochs:
            raise ValueError(
                f"IndexRefresh.every_n_epochs is {self.every_n_epochs}, but the trainer loads data anew every {reload} epochs: "
                f"set --trainer.reload_dataloaders_every_n_epochs {self.every_n_epochs}"
            )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refreshes, unless training is over."""
        done = trainer.current_epoch + 1
        if done % self.every_n_epochs or done == trainer.max_epochs:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        towers: Any = pl_module.heads
        encoder = towers.encoder
        assert isinstance(encoder, Retriever)
        data.source.refresh(encoder)
        data.search_again()
        logger.info("epoch %d: documents embedded and candidates searched anew", done)
