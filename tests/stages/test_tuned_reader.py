"""Stages that read take a reader that was tuned further, and the reader it was tuned from; none resumes another stage."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from score_script import plan, score
from toy import data, reader, trainer

from medrag_lightning.data.conditions import Conditions
from medrag_lightning.data.scores import ScoreTable
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.lora import LoraSettings
from medrag_lightning.models.trained_backbone import TrainedBackbone
from medrag_lightning.stages.critical_layers import CalibrateLayers
from medrag_lightning.stages.frozen_reader import load_reader
from medrag_lightning.stages.live_reading import LiveReading
from medrag_lightning.stages.reader_raft import ReaderRaft
from medrag_lightning.stages.score import Score

LORA = LoraSettings(rank=2)
LAYOUT = {"evidence": "all_in_one_prompt", "max_new_tokens": 2}


class Tuning(ReaderRaft):
    """Stands for stage reader_preference: its name, its description, its state; the loss does not matter here."""

    stage_name = "reader_preference"
    reads = ()


def policy(first: Path) -> HfReader:
    return HfReader(TrainedBackbone(reader().backbone, str(first)), LORA)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A reader's checkpoint, and that of its tuning; the predictions of the tuned one."""
    folder = tmp_path_factory.mktemp("tuned")
    first, second = folder / "raft.ckpt", folder / "tuned.ckpt"
    fit = trainer(folder)
    fit.fit(ReaderRaft(reader(), partial(torch.optim.AdamW, lr=3e-3), **LAYOUT), datamodule=data(folder))
    fit.save_checkpoint(first, weights_only=True)
    module, fit = Tuning(policy(first), partial(torch.optim.AdamW, lr=3e-2), **LAYOUT), trainer(folder)
    fit.fit(module, datamodule=data(folder))
    fit.save_checkpoint(second)
    fit.test(module, datamodule=data(folder), verbose=False)
    return folder, first, second, module


def test_a_tuned_reader_is_tested_by_the_stage_that_reads(two):
    folder, first, second, module = two
    again = ReaderRaft(policy(first), torch.optim.AdamW, **LAYOUT)
    trainer(folder).test(again, datamodule=data(folder), ckpt_path=second, verbose=False, weights_only=True)
    assert again.predictions == module.predictions
    before = ReaderRaft(policy(first), torch.optim.AdamW, **LAYOUT)
    trainer(folder).test(before, datamodule=data(folder), verbose=False)
    assert before.predictions != module.predictions
    assert all("lora_" in name for name in torch.load(second, weights_only=True)["state_dict"])


def test_the_stage_starts_from_it_but_does_not_resume_it(two):
    folder, first, second, module = two
    new = ReaderRaft(policy(first), torch.optim.AdamW, init_from=str(second), **LAYOUT)
    trainer(folder, max_steps=0).fit(new, datamodule=data(folder))
    assert new.reader.fingerprint() == module.reader.fingerprint()
    resumed = ReaderRaft(policy(first), torch.optim.AdamW, **LAYOUT)
    with pytest.raises(ValueError, match=r"of stage 'reader_preference', and one of stage 'reader_raft' is needed"):
        trainer(folder).fit(resumed, datamodule=data(folder), ckpt_path=second, weights_only=True)
    trap = Tuning(policy(first), torch.optim.AdamW, init_from=str(first), **LAYOUT)
    with pytest.raises(ValueError, match=r"of stage 'reader_raft', .* backbone of the new one .*TrainedBackbone"):
        trainer(folder).fit(trap, datamodule=data(folder))


def test_a_tuned_reader_without_its_first_stage_is_refused(two):
    folder, first, second, _ = two
    bare = ReaderRaft(HfReader(reader().backbone, LORA), torch.optim.AdamW, **LAYOUT)
    with pytest.raises(ValueError, match="tuned from the reader of an earlier stage"):
        trainer(folder).test(bare, datamodule=data(folder), ckpt_path=second, weights_only=True)
    lacks = ReaderRaft(HfReader(TrainedBackbone(reader().backbone, str(first))), torch.optim.AdamW, **LAYOUT)
    with pytest.raises(ValueError, match="adapter: checkpoint"):
        trainer(folder).test(lacks, datamodule=data(folder), ckpt_path=second, weights_only=True)


def scores(folder, name, module):
    plan_ = plan(folder / name, conditions=Conditions(each_candidate=False), splits=("val",))
    score(folder, folder / name, module, plan_)
    table = ScoreTable.open(folder / name)
    return [table.of_query(query) for query in sorted(table.query_ids)]


def test_scoring_reads_either(two):
    folder, first, second, module = two
    tuned = Score(policy(first), init_from=str(second))
    found = scores(folder, "tuned", tuned)
    assert tuned.reader.fingerprint() == module.reader.fingerprint()
    plain = scores(folder, "first", Score(reader(), init_from=str(first)))
    frozen = HfReader(TrainedBackbone(reader().backbone, str(first)), freeze="all_but_adapter")
    assert np.array(logps(scores(folder, "frozen", Score(frozen)))) == pytest.approx(np.array(logps(plain)), abs=1e-5)
    assert np.abs(np.array(logps(found)) - np.array(logps(plain))).max() > 1e-3


def logps(of_queries):
    return [logp for scores in of_queries for score in scores for logp in score.logp_nats]


def test_so_do_the_other_stages_that_read(two):
    _, first, second, module = two
    layers = CalibrateLayers(policy(first), init_from=str(second))
    load_reader(layers, layers.reader, str(second), layers.template)
    live = LiveReading(policy(first), str(second), layers.template, 4)
    live.prepare(())
    assert layers.reader.fingerprint() == module.reader.fingerprint() == live.reader.fingerprint()
    with pytest.raises(ValueError, match=r"none.ckpt: there is no such checkpoint; fit stage reader_raft first"):
        LiveReading(policy(first), "none.ckpt", layers.template, 4).prepare(())
