"""Preference pairs about the toy's coloured squares, of all three kinds, and a reader with an adapter to tune on them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from toy import COLOURS, ToySource, ToyTable, trainer

from medrag_lightning.data.module import MedragData
from medrag_lightning.data.preference_feed import PreferenceFeed
from medrag_lightning.data.preference_plan import PreferencePlan
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.lora import LoraSettings
from medrag_lightning.models.tiny import TinyBackbone
from medrag_lightning.models.trained_backbone import TrainedBackbone
from medrag_lightning.preference_files import PreferenceSet
from medrag_lightning.records import Condition, ImageShown, Knowledge, PairKind, Preference, PreferenceSide, Query, Split
from medrag_lightning.stages.reader_preference import ReaderPreference

__all__ = ["ADAMW", "PairData", "pairs_of", "pairs_with_reference", "reader", "stage", "trainer"]
ADAMW = partial(torch.optim.AdamW, lr=1e-2)
NAMES = list(COLOURS)


def pairs_of(query: Query, count: int = 24) -> list[Preference]:
    """Look at the image, use a report of the same colour, resist one of another colour."""
    n = int(query.id[1:])
    gold, wrong = NAMES[n % 4], NAMES[(n + 1) % 4]
    helpful, misleading = Condition((f"d{(n + 4) % count}",)), Condition((f"d{(n + 1) % count}",))
    other = replace(helpful, image=ImageShown.OTHER, image_of=f"q{(n + 2) % count}")
    look = PreferenceSide(helpful, gold), PreferenceSide(other, gold)
    use = PreferenceSide(helpful, gold), PreferenceSide(helpful, wrong)
    resist = PreferenceSide(misleading, gold), PreferenceSide(misleading, wrong)
    return [
        Preference(f"{query.id} look", query.id, PairKind.CROSS_MODALITY, None, *look),
        Preference(f"{query.id} use", query.id, PairKind.UTILISATION, Knowledge.REPORTS, *use),
        Preference(f"{query.id} resist", query.id, PairKind.ROBUSTNESS, Knowledge.BOTH, *resist, weight=2.0),
    ]


class PairData(MedragData):
    """The toy's data module with given pairs, made by `made` of each question."""

    def __init__(self, folder: Path, made=pairs_of, statistics=None, batch_size=4, splits=("train", "val"), **settings) -> None:
        table = ToyTable(str(folder))
        more = {"batch_size": batch_size, "eval_batch_size": 3, "cache_folder": str(folder / "evidence"), **settings}
        super().__init__([table], [table], ToySource(), preference=PreferencePlan(splits=splits), **more)
        self.made, self.statistics = made, statistics or {}

    def given(self) -> PreferenceSet:
        of_split = {split: [p for q in self.split_queries(split) for p in self.made(q)] for split in (Split.TRAIN, Split.VAL)}
        return PreferenceSet(Path("given"), of_split, {}, self.statistics)

    def _feed(self) -> PreferenceFeed:
        feed = PreferenceFeed(self.world(), self.preference)
        feed.found = self.given()
        return feed


LORA = LoraSettings(rank=2, alpha=4, targets=["q_proj", "v_proj"])


def reader(dropout: float = 0.0, adapter: bool = True, kind=HfReader, tuned: str | None = None, **shape) -> HfReader:
    """A reader with a fresh adapter; `tuned`: over the reader of that checkpoint."""
    small = {"hidden": 32, "layers": 2, "heads": 2, "vision_hidden": 32, "vision_layers": 1, "image_side_px": 32}
    base = TinyBackbone(**{**small, "vocabulary": 320, **shape})
    lora = replace(LORA, dropout=dropout) if adapter else None
    return kind(base if tuned is None else TrainedBackbone(base, tuned, LORA), lora)


def stage(dropout: float = 0.0, optimizer=ADAMW, made_reader=None, **settings) -> ReaderPreference:
    return ReaderPreference(made_reader or reader(dropout), optimizer, **settings)


@torch.no_grad()
def pairs_with_reference(folder: Path, made_reader=None, made=pairs_of):
    """`made`, with the log-probabilities of a reader without its adapter, as a score table would have stored them."""
    module, served = stage(made_reader=made_reader), PairData(folder, made)
    trainer(folder, max_steps=0, limit_val_batches=0).fit(module, datamodule=served)
    module.reader.eval()
    known: dict[str, Preference] = {}
    for loader in (served.train_dataloader(), *served.val_dataloader()):
        items = loader.dataset
        batch = module.collator(training=False)(items._opened(items.pairs))
        tokens_R = batch.rows.mask_RL.sum(1).tolist()
        for pair, nats, rows in zip(
            batch.pairs, module._live_reference(batch).tolist(), zip(batch.chosen_B, batch.rejected_B, strict=True), strict=True
        ):
            sides = {
                name: replace(getattr(pair, name), reference_nats=nats[i], tokens=tokens_R[rows[i]])
                for i, name in enumerate(("chosen", "rejected"))
            }
            known[pair.id] = replace(pair, **sides)
    return lambda query: [known[pair.id] for pair in made(query)]
