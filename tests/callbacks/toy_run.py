"""A stage and data of a few numbers, for the callbacks that watch a run."""

import math
import random
from dataclasses import replace

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch.utils.data import DataLoader

from medrag_lightning.records import AnswerType, Channel, Prediction, Query, Regime, Split

YES_NO = ("yes", "no")
CHANCE = {Regime.RETRIEVED: 0.9, Regime.NONE: 0.6, Regime.RANDOM: 0.6, Regime.ORACLE: 0.95, Regime.POISONED: 0.2}


class Batch(list):
    """Numbers with a token count, like a reader batch."""

    token_count = 100


class ToyStage(L.LightningModule):
    """Fits a line; answers by chance, better with evidence."""

    def __init__(self, regimes=tuple(Regime), rivals=()):
        super().__init__()
        self.line = torch.nn.Linear(1, 1)
        self.regimes, self.rivals = regimes, rivals
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
        queries = self.trainer.datamodule.split_queries("test")
        self.predictions = answers(queries, self.regimes)
        for name in self.rivals:
            self.predictions += [replace(p, system=name) for p in answers(queries, (Regime.RETRIEVED,), seed=len(name))]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Silent(L.LightningModule):
    """A stage that answers nothing, as those that train a retriever."""

    feed = "pairs"

    def validation_step(self, batch, batch_idx):
        pass

    def test_step(self, batch, batch_idx):
        pass

    def predict_step(self, batch, batch_idx):
        pass


class ToyData(L.LightningDataModule):
    """Numbers to fit, and yes-or-no and open questions about nothing."""

    def __init__(self, source="toys (synthetic)", rivals=()):
        super().__init__()
        self.source, self.rivals = source, dict.fromkeys(rivals)

    def split_queries(self, split):
        return [query(i, Split(split), self.source) for i in range(120)]

    def loader(self):
        return DataLoader([i / 16 for i in range(64)], batch_size=4, collate_fn=Batch)

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = loader


def query(i, split, source=""):
    common = {"split": split, "source": source, "patient_id": f"{split}-{i // 3}", "need": ("image", "report")[i % 2]}
    if i % 4 == 3:
        return Query(f"{split}-{i}", f"where is it {i % 5}", answer=("left lobe", "right lobe")[i % 3 == 0], **common)
    closed = {"choices": YES_NO, "answer_type": AnswerType.CLOSED}
    return Query(f"{split}-{i}", f"is there a mass {i % 7}", answer=YES_NO[i % 3 == 0], **closed, **common)


def answers(queries, regimes, seed=7):
    rng = random.Random(seed)
    return [answer(q, regime, rng) for regime in regimes for q in queries]


def answer(q, regime, rng):
    """Two candidates, each right as often as chance wants; the surer one gives the answer."""
    wrong = "heart" if q.answer_type is AnswerType.OPEN else next(c for c in YES_NO if c != q.answer)
    sure = [0.55 + 0.4 * rng.random() for _ in range(2)]
    alone = [q.answer if rng.random() < CHANCE[regime] else wrong for _ in range(2)]
    gold = [s if said == q.answer else 1 - s for s, said in zip(sure, alone, strict=True)]
    best = 0 if sure[0] >= sure[1] or regime is Regime.NONE else 1
    common = {"need": q.need, "question": q.question, "gold_logp_nats": math.log(gold[best])}
    if regime is not Regime.NONE:
        cited = {"cited": (f"doc-{q.id[-1]}", "doc-2"), "weights": (0.75, 0.25), "scores": (0.9, 0.8)}
        common |= cited | {"channels": (Channel.IMAGE_TO_IMAGE,) * 2, "candidate_answers": tuple(alone)}
    if q.answer_type is AnswerType.OPEN:
        rows = tuple((math.log(p),) for p in gold)
        kind, choices, logp = AnswerType.OPEN, (), ()
    else:
        rows = tuple(tuple(math.log(p if choice == q.answer else 1 - p) for choice in YES_NO) for p in gold)
        kind, choices, logp = AnswerType.CLOSED, YES_NO, rows[best]
    if regime is not Regime.NONE:
        common["candidate_logp_nats"] = rows
    return Prediction(q.id, regime, alone[best], alone[best], q.answer, kind, choices, logp, **common)


def trainer(folder, *callbacks, logger=False, **settings):
    defaults = {"max_epochs": 2, "log_every_n_steps": 1, "num_sanity_val_steps": 0} | settings
    return L.Trainer(
        accelerator="cpu", default_root_dir=folder, callbacks=list(callbacks), logger=logger,
        enable_checkpointing=any(isinstance(one, Checkpoint) for one in callbacks), enable_model_summary=False, **defaults,
    )  # fmt: skip
