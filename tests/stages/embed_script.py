"""Embeds a small corpus by `predict` on 2 processes into FOLDER. Run by test_embed.py."""

import sys
from pathlib import Path

import lightning as L
import numpy as np
from PIL import Image
from torch.utils.data import DataLoader

from callbacks.embedding_writer import EmbeddingWriter
from medrag_lightning.batches import EmbedItem
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.records import Document, ImageRef
from medrag_lightning.stages.embed import Embed


def open_image(ref):
    pixels = np.random.default_rng(int(ref.path[:-4])).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def corpus(count=23):
    """Every fourth document has no image, every eighth no text."""
    return [
        Document(f"d{n}", "" if n % 8 == 2 else f"finding {n}", None if n % 4 == 3 else ImageRef(f"{n}.png"))
        for n in range(count)
    ]


class Corpus(L.LightningDataModule):
    def __init__(self, folder=None):
        super().__init__()
        self.folder = folder

    def evidence_folder(self):
        return self.folder

    def predict_dataloader(self):
        items = [
            EmbedItem(n, d.text, None if d.image is None else open_image(d.image)) for n, d in enumerate(corpus())
        ]
        return DataLoader(items, batch_size=4, collate_fn=list)


def trainer(**settings):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return L.Trainer(accelerator="cpu", **(quiet | {"devices": 1} | settings))


if __name__ == "__main__":
    two = trainer(devices=2, strategy="ddp_fork", callbacks=[EmbeddingWriter(rows_per_chunk=5)])
    two.predict(Embed(TinyDualEncoder(32)), Corpus(Path(sys.argv[1])), return_predictions=False)
