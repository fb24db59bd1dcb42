"""Leaving out each document where all stood in one prompt: what the reader says, kept, and refused for other weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "answering"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))
from test_answerer import ColourSource, run_config
from toy import data, stage, trainer

from callbacks.predictions_writer import prediction_row
from medrag_lightning.artifacts import write_jsonl
from medrag_lightning.handoff.report import Options, rereading, write_report
from medrag_lightning.handoff.report.rereading import reread_without_each
from medrag_lightning.handoff.report.run_files import Run
from medrag_lightning.records import AnswerType, Regime


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """A run whose documents stand in one prompt, with its checkpoint and predictions."""
    folder = tmp_path_factory.mktemp("rereading")
    module, served = stage(evidence="all_in_one_prompt"), data(folder, eval_batch_size=1)
    served.source = ColourSource()
    run = trainer(folder, max_epochs=1)
    run.fit(module, datamodule=served)
    (folder / "checkpoints").mkdir(exist_ok=True)
    run.save_checkpoint(folder / "checkpoints" / "best-step=1.ckpt")
    run.test(module, datamodule=served, verbose=False)
    told = run_config()
    told["model"]["init_args"]["evidence"] = "all_in_one_prompt"
    told["data"]["init_args"]["source"]["class_path"] = "test_answerer.ColourSource"
    (folder / "config.yaml").write_text(yaml.safe_dump(told))
    write_jsonl(folder / "predictions" / "test.jsonl", map(prediction_row, module.predictions))
    return folder, [p for p in module.predictions if p.regime is Regime.RETRIEVED]


def test_effects_are_those_of_reading_again_and_are_kept(tested, monkeypatch):
    folder, predictions = tested
    monkeypatch.setenv("TOY_FOLDER", str(folder))
    checkpoint, seen = folder / "checkpoints" / "best-step=1.ckpt", []
    effects, line = reread_without_each(Run("toy", folder), checkpoint, predictions, lambda done, of: seen.append((done, of)))
    assert seen[-1] == (len(predictions), len(predictions))
    assert "read 8 questions again" in line
    assert set(effects) == {p.query_id for p in predictions}
    assert all(len(effects[p.query_id]) == len(p.cited) for p in predictions)
    kinds = {p.answer_type: effects[p.query_id] for p in predictions}
    assert any(one.answer_change_nats for one in kinds[AnswerType.CLOSED])
    assert all(one.answer_change_nats is None and one.gold_change_nats for one in kinds[AnswerType.OPEN])
    monkeypatch.setattr(rereading, "_answerer", None)
    assert reread_without_each(Run("toy", folder), checkpoint, predictions) == (effects, line)
    told = write_report(folder, Options(remove_each=True))
    assert "removed: answer" in told.path.read_text()


def test_other_weights_are_refused(tested, tmp_path, monkeypatch):
    folder, predictions = tested
    monkeypatch.setenv("TOY_FOLDER", str(folder))
    module, served = stage(evidence="all_in_one_prompt"), data(tmp_path, eval_batch_size=1)
    served.source = ColourSource()
    run = trainer(tmp_path, max_epochs=4)
    run.fit(module, datamodule=served)
    run.save_checkpoint(tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="the checkpoint is not that of the run"):
        reread_without_each(Run("toy", folder), tmp_path / "other.ckpt", predictions)
