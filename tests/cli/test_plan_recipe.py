"""Plans of recipes: every step that can be planned, with fresh weights where checkpoints are not there yet."""

import json

from medrag_lightning.cli.plan_recipe import recipe_findings, unwrapped, without_missing
from medrag_lightning.data.audit.findings import Finding

TOWERS = {"class_path": "medrag_lightning.models.tiny_towers.TinyTowers"}


def trained(checkpoint):
    return {"class_path": "m.TrainedEncoder", "init_args": {"encoder": TOWERS, "checkpoint": checkpoint}}


def test_a_trained_encoder_without_its_checkpoint_is_the_one_inside(tmp_path):
    headed = {"class_path": "m.HeadedEncoder", "init_args": {"encoder": trained("${steps.a.best}"), "text_head": "no.ckpt"}}
    assert unwrapped({"source": [headed]}) == {"source": [TOWERS]}
    (tmp_path / "best.ckpt").touch()
    there = trained(str(tmp_path / "best.ckpt"))
    assert unwrapped(there) == there


def test_checkpoints_that_are_not_there_are_left_out(tmp_path):
    (tmp_path / "best.ckpt").touch()
    words = ["-c", "data/vqa_rad", "-c", "runs/jomed/tune/fusion.yaml", "--ckpt_path=${steps.reader.best}"]
    words += [f"--model.init_args.init_from={tmp_path / 'best.ckpt'}", f"--model.init_args.encoder={json.dumps(trained('no'))}"]
    assert without_missing(words) == [
        "-c",
        "data/vqa_rad",
        f"--model.init_args.init_from={tmp_path / 'best.ckpt'}",
        f"--model.init_args.encoder={json.dumps(TOWERS)}",
    ]


def test_each_step_of_jomed_is_planned_and_those_that_read_the_table_are_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = {}

    def plan_run(verb, words):
        asked[len(asked)] = (verb, words)
        if any("retriever_kl" in word for word in words):
            return [Finding("plan_failed", "error", "x", "the score table does not exist", "")], [("verdict", "no")], 0.0
        return [Finding("loading_slow", "note", "x", "slow", "")], [("run", "it"), ("verdict", "fits")], 100.0

    findings, rows = recipe_findings(["jomed", "--set", "reader.trainer.max_epochs=1", "--data", "data/retinamnist"], plan_run)
    told = dict(rows)
    assert {finding.kind for finding in findings} == {"loading_slow"}
    assert told["index"] == "index: not probed; it computes no batches"
    assert told["text_head"].startswith("cannot be planned before earlier steps have run: the score table")
    assert told["contrastive: verdict"] == "fits"
    assert told["whole recipe"] == "about 0:10:00 (computed), without text_head, image_head"
    verbs = [verb for verb, _ in asked.values()]
    assert verbs == ["fit", "predict", "fit", "predict", "fit", "fit", "validate", "test"]
    words = [word for _, every in asked.values() for word in every]
    assert "--trainer.max_epochs=1" in words
    assert not [word for word in words if ("${steps" in word and "checkpoint" in word) or word.startswith("--ckpt_path")]


def test_one_step_alone_can_be_planned(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    _, rows = recipe_findings(["jomed", "--only", "reader"], lambda verb, words: ([], [("run", verb)], 60.0))
    assert rows == [("reader", "fit"), ("whole recipe", "about 0:01:00 (computed)")]
