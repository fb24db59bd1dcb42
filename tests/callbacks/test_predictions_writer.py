"""Predictions on disk: complete, whole, and without patient identifiers."""

import json

import pytest
from toy_run import Silent, ToyData, ToyStage, trainer

from callbacks.predictions_writer import PredictionsWriter, prediction_row
from medrag_lightning.records import AnswerType, Prediction, Regime


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_writes_validation_and_test_predictions(tmp_path):
    run = trainer(tmp_path, PredictionsWriter(), enable_progress_bar=False, max_epochs=1)
    stage, data = ToyStage(), ToyData()
    run.fit(stage, data)
    assert len(rows(tmp_path / "predictions/val.jsonl")) == 120
    run.test(stage, data, verbose=False)
    written = rows(tmp_path / "predictions/test.jsonl")
    assert len(written) == 120 * len(Regime)
    assert {row["regime"] for row in written} == set(map(str, Regime))
    first = written[0]
    assert first["cited"] == ["doc-0", "doc-2"]
    assert first["correct"] == (first["answer"] == first["gold"])
    assert "patient" not in (tmp_path / "predictions/test.jsonl").read_text()
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == ["test.jsonl", "val.jsonl"]


def test_folder_can_be_chosen(tmp_path):
    run = trainer(tmp_path / "run", PredictionsWriter(str(tmp_path / "here")), enable_progress_bar=False)
    run.test(ToyStage(), ToyData(), verbose=False)
    assert (tmp_path / "here/test.jsonl").is_file()


def test_row_of_an_invalid_answer_and_of_an_impossible_choice():
    closed = {"answer_type": AnswerType.CLOSED, "choices": ("yes", "no")}
    row = prediction_row(Prediction("q", Regime.NONE, None, "it is unclear", "yes", logp_nats=(0.0, -float("inf")), **closed))
    assert (row["answer"], row["raw"], row["correct"]) == (None, "it is unclear", False)
    assert row["logp_nats"] == [0.0, None]
    assert prediction_row(Prediction("q", Regime.NONE, "yes", "yes", None, **closed))["correct"] is None


def test_rows_tell_every_candidate_and_the_rival_it_belongs_to(tmp_path):
    run = trainer(tmp_path, PredictionsWriter(), enable_progress_bar=False)
    run.test(ToyStage((Regime.RETRIEVED, Regime.NONE), ("contrastive",)), ToyData(), verbose=False)
    written = rows(tmp_path / "predictions/test.jsonl")
    assert {(row["regime"], row["system"]) for row in written} == {
        ("retrieved", ""), ("none", ""), ("retrieved", "contrastive"),
    }  # fmt: skip
    first = written[0]
    told = ("cited", "weights", "scores", "channels", "candidate_answers", "candidate_logp_nats")
    assert {len(first[name]) for name in told} == {2}
    assert first["channels"] == ["image_to_image"] * 2
    assert len(first["candidate_logp_nats"][0]) == len(first["choices"])
    assert first["gold_logp_nats"] == first["logp_nats"][first["choices"].index(first["gold"])]
    alone = next(row for row in written if row["regime"] == "none")
    assert alone["candidate_answers"] == alone["scores"] == []


def test_a_stage_that_answers_nothing_writes_nothing(tmp_path):
    run = trainer(tmp_path, PredictionsWriter(), enable_progress_bar=False)
    run.test(Silent(), ToyData(), verbose=False)
    run.validate(Silent(), ToyData(), verbose=False)
    run.predict(Silent(), ToyData(), return_predictions=False)
    assert not (tmp_path / "predictions").exists()


def test_a_stage_that_reads_and_keeps_no_predictions_is_refused(tmp_path):
    class Forgetful(Silent):
        feed = "reading"

    with pytest.raises(ValueError, match="Forgetful, which reads queries, keeps no `predictions`"):
        trainer(tmp_path, PredictionsWriter(), enable_progress_bar=False).test(Forgetful(), ToyData())


def test_row_names_what_was_not_shown():
    row = prediction_row(Prediction("q", Regime.RETRIEVED, "x", "x", "x", AnswerType.OPEN, cited=("a",), dropped=("c", "b")))
    assert (row["cited"], row["dropped"]) == (["a"], ["c", "b"])
