"""Embeds a corpus: `predict` only, on as many devices as there are; `callbacks.EmbeddingWriter` keeps the vectors."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L

from medrag_lightning.batches import Embedded, EmbedItem
from medrag_lightning.interfaces import Collator, Feed, Retriever


class Embed(L.LightningModule):
    """Vectors of documents by a frozen retriever. It trains nothing; other verbs are refused.

    Args:
        encoder: makes the vectors; if it is a torch module, it moves to the trainer's device.
    """

    stage_name = "embed"

    def __init__(self, encoder: Retriever) -> None:
        super().__init__()
        self.encoder = encoder

    @property
    def feed(self) -> Feed:
        """The corpus."""
        return "corpus"

    def collator(self, training: bool) -> Collator:
        """Items as they are: the encoder makes tensors of them."""
        return list

    def setup(self, stage: str) -> None:
        """Loads the encoder's weights, before Lightning moves this module to its device."""
        if stage != "predict":
            raise ValueError(f"the embedding stage only predicts; `{stage}` was asked of it")
        assert self.encoder.dim > 0

    def predict_step(self, batch: Sequence[EmbedItem], batch_idx: int, dataloader_idx: int = 0) -> Embedded:
        """The vectors of a batch of items."""
        return Embedded.of(batch, self.encoder.embed_images, self.encoder.embed_texts)
