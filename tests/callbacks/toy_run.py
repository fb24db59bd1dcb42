"""A stage and data of a few numbers, for the callbacks that watch a run."""

import math
import random

import lightning as L
import torch
from torch.utils.data import DataLoader

from medrag_lightning.records import AnswerType, Prediction, Query, Regime, Split

YES_NO = ("yes", "no")
CHANCE = {Regime.RETRIEVED: 0.9, Regime.NONE: 0.6, Regime.RANDOM: 0.6, Regime.ORACLE: 0.95, Regime.POISONED: 0.2}


class Batch(list):
    """Numbers with a token count, like a reader batch."""

    token_count = 100


class ToyStage(L.LightningModule):
    """Fits a line; answers by chance, better with evidence."""

    def __init__(self, regimes=tuple(Regime)):
        super().__init__()
        self.line = torch.nn.Linear(1, 1)
        self.regimes = regimes
        self.predictions = []

    def training_step(self, batch, batch_idx):
        x = torch.tensor([[float(v)] for v in batch])
        loss = (self.line(x) - 2 * x).square().mean() + 0.3 * torch.rand(())
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        self.predictions = answers(self.trainer.datamodule.split_queries("val"), (Regime.RETRIEVED,))
        step = self.trainer.global_step
        self.log("val/loss", 1 / (1 + step / 20) + 0.002 * step)
        self.log("val/closed_macro_f1", 1 - 1 / (1 + step / 20))

    def test_step(self, batch, batch_idx):
        pass

    def on_test_epoch_end(self):
        self.predictions = answers(self.trainer.datamodule.split_queries("test"), self.regimes)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


class ToyData(L.LightningDataModule):
    """Numbers to fit, and yes-or-no and open questions about nothing."""

    def __init__(self, source="toys (synthetic)"):
        super().__init__()
        self.source = source

    def split_queries(self, split):
        return [query(i, Split(split), self.source) for i in range(120)]

    def loader(self):
        return DataLoader([i / 16 for i in range(64)], batch_size=4, collate_fn=Batch)

    train_dataloader = val_dataloader = test_dataloader = loader


def query(i, split, source=""):
    common = {"split": split, "source": source, "patient_id": f"{split}-{i // 3}", "need": ("image", "report")[i % 2]}
    if i % 4 == 3:
        return Query(f"{split}-{i}", f"where is it {i % 5}", answer=("left lobe", "right lobe")[i % 3 == 0], **common)
    closed = {"choices": YES_NO, "answer_type": AnswerType.CLOSED}
    return Query(f"{split}-{i}", f"is there a mass {i % 7}", answer=YES_NO[i % 3 == 0], **closed, **common)


def answers(queries, regimes):
    rng = random.Random(7)
    return [answer(q, regime, rng) for regime in regimes for q in queries]


def answer(q, regime, rng):
    right = rng.random() < CHANCE[regime]
    common = {"need": q.need, "question": q.question, "cited": ("doc-1", "doc-2"), "weights": (0.75, 0.25)}
    if q.answer_type is AnswerType.OPEN:
        said = q.answer if right else "heart"
        return Prediction(q.id, regime, said, said, q.answer, AnswerType.OPEN, **common)
    said = q.answer if right else next(c for c in YES_NO if c != q.answer)
    sure = 0.55 + 0.4 * rng.random()
    logp = tuple(math.log(sure if choice == said else 1 - sure) for choice in YES_NO)
    return Prediction(q.id, regime, said, said, q.answer, AnswerType.CLOSED, YES_NO, logp, **common)


def trainer(folder, *callbacks, logger=False, **settings):
    defaults = {"max_epochs": 2, "log_every_n_steps": 1, "num_sanity_val_steps": 0} | settings
    return L.Trainer(
        accelerator="cpu", default_root_dir=folder, callbacks=list(callbacks), logger=logger,
        enable_checkpointing=False, enable_model_summary=False, **defaults,
    )  # fmt: skip
