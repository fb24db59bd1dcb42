"""A corpus of eight coloured squares and questions about them: small enough for a reader of a few thousand weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import torch

from medrag_lightning.artifacts import atomic_write
from medrag_lightning.data.evidence import EvidenceMixture
from medrag_lightning.data.module import MedragData
from medrag_lightning.interfaces import OpenImage
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.tiny import TinyBackbone
from medrag_lightning.records import AnswerType, Candidate, Channel, Document, ImageRef, Query, Regime, Retrieved, Split
from medrag_lightning.stages.reader_raft import ReaderRaft

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "grey": (120, 120, 120)}


class ToyTable:
    """Closed questions (which colour) and open ones (name the colour); reports that tell a colour."""

    def __init__(self, folder: str, count: int = 24) -> None:
        self.path, self.count = Path(folder) / "toy.npz", count

    def _write(self) -> None:
        if self.path.exists():
            return
        rng = np.random.default_rng(0)
        base = np.array(list(COLOURS.values()))[np.arange(self.count) % 4]
        images = (base[:, None, None] + rng.integers(-20, 20, (self.count, 32, 32, 3))).astype(np.uint8)
        with atomic_write(self.path) as stream:
            np.savez(stream, images=images)

    def queries(self) -> list[Query]:
        self._write()
        names = list(COLOURS)
        splits = [Split.TRAIN, Split.TRAIN, Split.TRAIN, Split.VAL, Split.TEST, Split.TEST]
        made = []
        for n in range(self.count):
            closed = n % 3 != 0
            made.append(
                Query(
                    id=f"q{n}",
                    question="which colour?" if closed else "name the colour",
                    image=ImageRef(str(self.path), "images", n),
                    answer=names[n % 4],
                    choices=tuple(names) if closed else (),
                    answer_type=AnswerType.CLOSED if closed else AnswerType.OPEN,
                    split=splits[n // 4 % 6],
                    patient_id=f"p{n}",
                    relevant_ids=(f"d{(n + 4) % self.count}",),
                )
            )
        return made

    def documents(self) -> list[Document]:
        self._write()
        ref = [ImageRef(str(self.path), "images", n) for n in range(self.count)]
        return [Document(f"d{n}", f"it is {list(COLOURS)[n % 4]}", ref[n], patient_id=f"p{n}") for n in range(self.count)]

    def roots(self) -> list[Path]:
        return [self.path.parent]


class Unanswered(ToyTable):
    """Nobody wrote the answers down."""

    def queries(self) -> list[Query]:
        return [replace(query, answer=None) for query in super().queries()]


class ToySource:
    """The next two documents of the same colour, then one of another."""

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        self.load(documents, open_image, folder)

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        self.documents = list(documents)

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        return [Retrieved(q.id, tuple(self._candidates(int(q.id[1:]))), "toy") for q in queries]

    def _candidates(self, n: int) -> list[Candidate]:
        places = [(n + step) % len(self.documents) for step in (4, 8, 1)]
        return [Candidate(self.documents[p], 0.9 - 0.1 * i, Channel.IMAGE_TO_IMAGE) for i, p in enumerate(places)]

    def fingerprint(self) -> str:
        return "toy"


def reader(**settings) -> HfReader:
    shape = {"hidden": 32, "layers": 1, "heads": 2, "vision_hidden": 32, "vision_layers": 1, "image_side_px": 32}
    return HfReader(TinyBackbone(**{**shape, "vocabulary": 320, **settings}))


def data(folder, **settings) -> MedragData:
    table = ToyTable(str(folder))
    chosen = {"batch_size": 6, "evidence": EvidenceMixture(samples_per_query=2), "cache_folder": str(folder / "evidence")}
    regimes = [Regime.RETRIEVED, Regime.NONE, Regime.RANDOM, Regime.ORACLE]
    return MedragData([table], [table], ToySource(), **{"regimes": regimes, **chosen, **settings})


ADAMW = partial(torch.optim.AdamW, lr=3e-3)


def stage(dropout: float = 0.0, optimizer=ADAMW, **settings) -> ReaderRaft:
    return ReaderRaft(reader(dropout=dropout), optimizer, **{"max_new_tokens": 4, **settings})


def trainer(folder, **settings) -> L.Trainer:
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
        "max_epochs": 1,
    }
    return L.Trainer(default_root_dir=str(folder), **{**quiet, **settings})
