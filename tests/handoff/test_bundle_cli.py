"""`export` from a run's folder and `verify`, as a user types them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))
from bundle_world import in_this_process
from toy import data, stage, trainer

from medrag_lightning import load_bundle
from medrag_lightning.answering import Answerer
from medrag_lightning.cli import main
from medrag_lightning.handoff.bundle import export as exporting
from medrag_lightning.handoff.bundle.from_run import checkpoint_of, suggested_threshold
from medrag_lightning.mixture import Fusion
from medrag_lightning.retrieval.source import LiveSearch

LIVE = "medrag_lightning.retrieval.source.LiveSearch"
ENCODER = {"class_path": "medrag_lightning.models.tiny_dual_encoder.TinyDualEncoder", "init_args": {"dim": 32}}


def search(per_channel):
    return {"class_path": LIVE, "init_args": {"encoder": ENCODER, "per_channel": per_channel}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder as `fit` and `test` leave it."""
    folder = tmp_path_factory.mktemp("run")
    module, served = stage(), data(folder)
    fit = trainer(folder)
    fit.fit(module, datamodule=served)
    (folder / "checkpoints").mkdir()
    fit.save_checkpoint(folder / "checkpoints" / "last.ckpt", weights_only=True)
    tiny = {"hidden": 32, "layers": 1, "heads": 2, "vision_hidden": 32, "vision_layers": 1}
    backbone = {"class_path": "medrag_lightning.models.tiny.TinyBackbone"}
    backbone["init_args"] = {**tiny, "image_side_px": 32, "vocabulary": 320}
    reader = {"class_path": "medrag_lightning.models.hf_reader.HfReader", "init_args": {"backbone": backbone}}
    table = [{"class_path": "toy.ToyTable", "init_args": {"folder": str(folder)}}]
    adamw = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.003}}
    served = {"tables": table, "corpus": table, "cache_folder": "${run_folder}/evidence"}
    served |= {"source": search({"image_to_image": 2}), "rivals": {"by words": search({"text_to_text": 1})}}
    told = {
        "seed_everything": 5,
        "model": {
            "class_path": "medrag_lightning.stages.reader_raft.ReaderRaft",
            "init_args": {"reader": reader, "optimizer": adamw, "max_new_tokens": 4},
        },
        "data": {"class_path": "medrag_lightning.data.module.MedragData", "init_args": served},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(told))
    return folder


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(exporting, "ask_in_clean_process", in_this_process)


def test_a_run_is_exported_verified_and_asked(run, tmp_path, here, capsys):
    output = tmp_path / "out" / "colours"
    main(["export", str(run), "--ckpt_path", "last", "--output", str(output), "--probes", "3"])
    said = capsys.readouterr()
    assert "3 probes answered alike" in said.out
    assert f"next: python -m medrag_lightning verify {output}" in said.out
    assert "asking the bundle the same in a clean process" in said.err
    main(["verify", str(output)])
    assert f"{output}: whole and unchanged" in capsys.readouterr().out
    told = json.loads((output / "bundle.json").read_text())
    assert (told["name"], told["seed"], told["data"]["test"]) == ("colours", 5, 8)
    before = Answerer.from_run(run / "config.yaml", run / "checkpoints" / "last.ckpt")
    after, asked = load_bundle(output), str(run / "toy.npz") + "#images/17"
    mine, theirs = (one.ask("which colour?", asked, ["red", "green"], "p17") for one in (before, after))
    assert mine.logp_nats == pytest.approx(theirs.logp_nats, abs=1e-5)
    assert [c.text for c in mine.citations] == [c.text for c in theirs.citations]
    (output / "bundle.json").write_text("{}")
    with pytest.raises(SystemExit) as ending:
        main(["verify", str(output)])
    assert ending.value.code == 1
    said = capsys.readouterr().out
    assert "bundle.json: changed" in said
    assert f"{output}: 1 fault; do not use it" in said


def test_a_rival_and_a_tuned_fusion_are_exported(run, tmp_path, here):
    fusion = tmp_path / "fusion.yaml"
    fusion.write_text(yaml.safe_dump({"model": {"init_args": {"fusion": {"temperature": 0.5}}}}))
    command = ["export", str(run), "--ckpt_path", "last", "--output", str(tmp_path / "b"), "--fusion", str(fusion)]
    main([*command, "--system", "by words", "--probes", "2"])
    loaded = load_bundle(tmp_path / "b")
    assert loaded.batch_reader.fusion == Fusion(temperature=0.5)
    assert isinstance(loaded.source.source, LiveSearch)
    assert [*loaded.source.source.per_channel] == ["text_to_text"]
    assert json.loads((tmp_path / "b" / "bundle.json").read_text())["inside"]["system"] == "by words"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ckpt_path", "best"], "--ckpt_path best: .* names no best checkpoint"),
        (["--ckpt_path", "none.ckpt"], "none.ckpt does not exist"),
        (["--ckpt_path", "last", "--system", "mcr"], "'mcr' is no system of this run; its data.rivals are: 'by words'"),
        (["--ckpt_path", "last", "--fusion", "none.yaml"], "none.yaml does not exist"),
        (["--ckpt_path", "last", "--abstain", "report"], "abstention.json does not exist; `report` writes it"),
        (["--ckpt_path", "last", "--abstain", "often"], "--abstain must be a probability or `report`"),
        (["--ckpt_path", "last", "--reader", "adapter"], "this run trained no adapter"),
        (["--ckpt_path", "last", "--what"], "not understood: --what"),
        ([], "the following arguments are required: --ckpt_path"),
        (["--ckpt_path", "last", "--probes", "0"], "--probes must be at least 1"),
    ],
)
def test_mistakes_are_told_and_leave_nothing(run, tmp_path, here, capsys, arguments, words):
    with pytest.raises(SystemExit) as ending:
        main(["export", str(run), "--output", str(tmp_path / "b"), *arguments])
    assert ending.value.code == 2

    assert re.search(words, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_and_one_without_a_config_are_refused(run, tmp_path, capsys):
    (tmp_path / "b").mkdir()
    for where, words in ((run, "is there already"), (tmp_path, "is there already")):
        with pytest.raises(SystemExit):
            main(["export", str(where), "--ckpt_path", "last", "--output", str(tmp_path / "b")])
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["export", str(tmp_path), "--ckpt_path", "last", "--output", str(tmp_path / "c")])
    assert "config.yaml: there is no such config" in capsys.readouterr().err


def test_only_a_threshold_that_may_be_used_is_taken_from_a_report(run, tmp_path):
    (tmp_path / "config.yaml").write_text("{}")
    path = tmp_path / "abstention.json"
    path.write_text(json.dumps({"threshold": 0.7, "usable": True}))
    assert suggested_threshold(tmp_path) == 0.7
    for told in ({"threshold": 0.7, "usable": False}, {"threshold": None, "usable": False}):
        path.write_text(json.dumps(told))
        with pytest.raises(ValueError, match="validation questions"):
            suggested_threshold(tmp_path)


def test_a_step_that_only_tests_says_where_its_weights_are_named(tmp_path):
    (tmp_path / "log.txt").write_text("")
    with pytest.raises(ValueError, match=r"log\.txt says which"):
        checkpoint_of(tmp_path, "best")
