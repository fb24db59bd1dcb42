"""A toy stage and toy data that the command can name, and a way to run the command in this process."""

import logging
import sys
import textwrap

import pytest

TOY = '''
from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Literal

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch.utils.data import DataLoader


@dataclass
class Schedule:
    warmup_steps: int = 0
    shape: Literal["flat", "cosine"] = "flat"
    floor: float | None = 0.1
    cycles: tuple[int, ...] | None = (1, 2)


class Head(torch.nn.Module):
    def __init__(self, width: int = 3, weights: str | None = "none.pt", bias: dict[str, float | None] | None = None) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.layer = torch.nn.Linear(3, 1)
        torch.nn.init.constant_(self.layer.weight, 0.5)
        torch.nn.init.zeros_(self.layer.bias)


class Stage(L.LightningModule):
    stage_name = "toy"

    def __init__(
        self,
        head: Head,
        optimizer: OptimizerCallable,
        rate: float = 0.1,
        schedule: Schedule = Schedule(),
        seed: int = 0,
        signal_at: int | None = None,
        test_signal: int | None = None,
        step_seconds: float = 0.0,
    ) -> None:
        super().__init__()
        self.head, self.optimizer, self.seed = head, optimizer, seed
        self.signal_at, self.test_signal, self.step_seconds = signal_at, test_signal, step_seconds

    def training_step(self, batch, index):
        time.sleep(self.step_seconds)
        if self.signal_at == self.global_step:
            os.kill(os.getpid(), signal.SIGTERM)
        loss = (self.head.layer(batch) - batch.sum(1, keepdim=True)).pow(2).mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, index):
        self.log("val/loss", self.head.layer(batch).pow(2).mean(), sync_dist=True)

    def test_step(self, batch, index):
        if self.test_signal is not None:
            os.kill(os.getpid(), self.test_signal)
        self.log("test/loss", self.head.layer(batch).pow(2).mean(), sync_dist=True)

    def predict_step(self, batch, index):
        return batch

    def configure_optimizers(self):
        return self.optimizer(self.parameters())

    def on_save_checkpoint(self, checkpoint):
        checkpoint["medrag"] = {"stage": self.stage_name}


class OtherStage(Stage):
    stage_name = "other"


class ReadingStage(Stage):
    stage_name = "reading"
    reads = ("toy",)


class Loader:
    def __init__(self, seed):
        self.seed, self.epoch, self.position = seed, 0, 0

    def __len__(self):
        return 4

    def __iter__(self):
        if self.position == 4:
            self.epoch, self.position = self.epoch + 1, 0
        while self.position < 4:
            self.position += 1
            key = 1000 * self.seed + 100 * self.epoch + self.position
            yield torch.rand(2, 3, generator=torch.Generator().manual_seed(key))

    def state_dict(self):
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state):
        self.epoch, self.position = state["epoch"], state["position"]


class Data(L.LightningDataModule):
    def __init__(self, seed: int = 0, fail: bool = False) -> None:
        super().__init__()
        self.seed, self.fail = seed, fail

    def setup(self, stage):
        if self.fail:
            raise RuntimeError("a fault of the program")

    def train_dataloader(self):
        return Loader(self.seed)

    def val_dataloader(self):
        return DataLoader(torch.ones(4, 3), batch_size=2)

    test_dataloader = predict_dataloader = val_dataloader
'''

CONFIG = """\
trainer:
  accelerator: cpu
  max_epochs: 2
  enable_progress_bar: false
  log_every_n_steps: 1
  callbacks:
    - class_path: callbacks.preemption.Preemption
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args:
        dirpath: ${run_folder}/checkpoints
        filename: best-{step}
        monitor: val/loss
    - class_path: callbacks.last_checkpoint.LastCheckpoint
      init_args:
        every_n_steps: 3
model:
  class_path: toy_parts.Stage
  init_args:
    head:
      class_path: toy_parts.Head
      init_args:
        width: 3
    rate: 0.1
    schedule:
      warmup_steps: 2
    optimizer:
      class_path: torch.optim.Adam
      init_args:
        lr: 0.1
data:
  class_path: toy_parts.Data
"""


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory):
    """A folder with the module ``toy_parts``."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy_parts.py").write_text(textwrap.dedent(TOY))
    return folder


@pytest.fixture
def toy(toy_folder, tmp_path, monkeypatch):
    """The current folder holds ``toy.yaml``; ``toy_parts`` can be imported; no run folder is inherited."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(toy_folder))
    monkeypatch.setattr(sys, "argv", ["medrag_lightning"])
    monkeypatch.setattr(logging, "raiseExceptions", False)  # Lightning logs to the stream of an earlier test
    for name in ("MEDRAG_RUN_FOLDER", "LOCAL_RANK", "MEDRAG_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "toy.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def run(toy, capfd):
    """Runs the command; gives its exit code and what it wrote to standard error."""
    from medrag_lightning.cli import main

    def command(*arguments):
        capfd.readouterr()
        code = 0
        try:
            assert main([str(argument) for argument in arguments]) is None
        except SystemExit as ending:
            code = ending.code
        out, err = capfd.readouterr()
        command.out = out
        return code, err

    return command
