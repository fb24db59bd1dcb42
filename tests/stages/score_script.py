"""Scores the toy world by `predict` into folders below FOLDER: on 1 process, on 2, and killed, then resumed on 2.

Run by test_score.py. Its parts are the toy that the other tests of scoring use.
"""

import os
import signal
import sys
from pathlib import Path

import lightning as L
import torch
from toy import data, reader, trainer

from callbacks.score_writer import ScoreWriter
from medrag_lightning.data.conditions import Conditions
from medrag_lightning.data.scoring_feed import ScoringPlan
from medrag_lightning.stages.score import Score

EVERYTHING = Conditions(
    all_candidates=True, random=2, oracle=True, other_evidence="all", other_image=True, no_image=True,
    corrupted=("blank", "noise"), changed_image_with=("none", "all_candidates"),
)  # fmt: skip


def plan(folder, **settings):
    chosen = {"splits": ("train", "val"), "conditions": EVERYTHING, "prompts_per_pack": 40}
    return ScoringPlan(str(folder), **{**chosen, **settings})


def score(folder, table, stage=None, plan_=None, callbacks=(), **settings):
    """One run; gives the stage."""
    stage = stage or Score(reader())
    module = data(folder, scoring=plan_ or plan(table))
    writer = ScoreWriter(rows_per_shard=1)
    trainer(folder, callbacks=[writer, *callbacks], **settings).predict(stage, module, return_predictions=False)
    return stage


class Kill(L.Callback):
    """Ends the process without notice after so many packs."""

    def __init__(self, packs: int) -> None:
        self.packs = packs

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if batch_idx + 1 == self.packs:
            os.kill(os.getpid(), signal.SIGKILL)


def in_a_child(work) -> int:
    """Runs `work` in a process of its own and gives its exit status."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    two = {"devices": 2, "strategy": "ddp_fork"}
    assert in_a_child(lambda: score(folder, folder / "one")) == 0
    assert in_a_child(lambda: score(folder, folder / "resumed", callbacks=[Kill(3)])) == signal.SIGKILL
    (folder / "after_kill.txt").write_text("\n".join(p.name for p in sorted((folder / "resumed" / "shards").iterdir())))
    score(folder, folder / "two", **two)
    score(folder, folder / "resumed", **two)
