"""Similarities with planted weights, and what a reader would make of them; with and without a data module."""

from __future__ import annotations

from functools import partial

import lightning as L
import numpy as np
import torch
from toy import trainer

from medrag_lightning.data.fusion_feed import FusionItems
from medrag_lightning.data.module import MedragData
from medrag_lightning.data.sampler import EvalSampler, ResumableLoader, TrainSampler
from medrag_lightning.models.similarity_fusion import WeightedSimilarities
from medrag_lightning.records import Channel, Query
from medrag_lightning.stages.base import Schedule
from medrag_lightning.stages.fusion_nce import FusionNce

__all__ = ["ADAM", "ALPHA_BETA_GAMMA", "CHANNELS", "Arrays", "direction", "fit", "fused", "planted", "stage", "trainer"]
ADAM = partial(torch.optim.Adam, lr=1e-2)
ALPHA_BETA_GAMMA = np.array([0.6, 0.3, 0.1])
CHANNELS = ("image_to_text", "image_to_image", "text_to_text")
OFFSET, SCALE = np.array([0.1, 0.7, 0.4]), np.array([0.03, 0.1, 0.2])


def planted(count=2000, pool=20, weight_NM=ALPHA_BETA_GAMMA, noise=0.3, seed=0, modality=None) -> FusionItems:
    """Cosines of very different scales; log-confidence is the planted sum of their standardised values, and noise."""
    rng = np.random.default_rng(seed)
    unit = rng.normal(size=(count, pool, 3))
    unit = (unit - unit.mean(1, keepdims=True)) / unit.std(1, keepdims=True)
    weight_NM = np.broadcast_to(weight_NM, (count, 3))
    value = (unit * weight_NM[:, None]).sum(-1) + noise * rng.normal(size=(count, pool))
    log_confidence = -np.logaddexp(0, -2 * value)
    return FusionItems(
        [Channel(name) for name in CHANNELS],
        (OFFSET + SCALE * unit).astype(np.float32),
        log_confidence.astype(np.float32),
        modality or [None] * count,
    )


class Arrays(L.LightningDataModule):
    """Serves given items as the project's data module does."""

    def __init__(self, train: FusionItems, val: FusionItems, batch_size: int = 256) -> None:
        super().__init__()
        self.train, self.val, self.batch_size = train, val, batch_size

    def split_queries(self, split):
        return [Query(str(name), "?", modality=name) for name in set(self.train.modality)]

    def _collate(self):
        return self.trainer.lightning_module.collator(True)

    def train_dataloader(self):
        sampler, place = TrainSampler(len(self.train), self.batch_size, 0), partial(MedragData._position, self)
        return ResumableLoader(self.train, sampler=sampler, batch_size=None, collate_fn=self._collate(), position=place)

    def val_dataloader(self):
        sampler = EvalSampler(len(self.val), self.batch_size)
        return [torch.utils.data.DataLoader(self.val, sampler=sampler, batch_size=None, collate_fn=self._collate())]

    def test_dataloader(self):
        return self.val_dataloader()


def stage(optimizer=ADAM, made=None, **settings) -> FusionNce:
    names = ("loss", "negatives", "t_confidence", "init_from")
    own = {name: settings.pop(name) for name in names if name in settings}
    return FusionNce(made or WeightedSimilarities(**settings), optimizer, Schedule("cosine", 0.0), **own)


def fit(module, folder, train, val=None, epochs=10, **settings) -> dict[str, float]:
    fitter = trainer(folder, max_epochs=epochs, **settings)
    fitter.fit(module, datamodule=Arrays(train, val or train))
    return {name.split("/")[1]: float(value) for name, value in fitter.callback_metrics.items() if name.startswith("val/")}


def direction(weight) -> np.ndarray:
    weight = np.asarray(torch.as_tensor(weight).detach())
    return weight / np.linalg.norm(weight, axis=-1, keepdims=True)


def fused(module) -> np.ndarray:
    return direction(module.fusion.shared_weights())
