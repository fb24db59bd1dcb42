"""Every YAML in configs/ is parsed, instantiated and run for one step."""

import sys
from pathlib import Path

import pytest

from medrag_lightning.cli import main

sys.path.insert(0, str(Path(__file__).parent / "models"))
from reader_folders import FOLDERS

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
TINY = "model.init_args.reader.init_args.backbone"
SMALL = {"hidden": 32, "layers": 1, "heads": 2, "vision_hidden": 32, "vision_layers": 1, "vocabulary": 400}
ONE_STEP = ["--trainer.fast_dev_run=1", "--data.init_args.max_train_queries=8", "--data.init_args.max_eval_queries=4"]


def names(folder: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / folder).glob("*.yaml"))


def small() -> list[str]:
    return [f"--{TINY}.init_args.{key}={value}" for key, value in SMALL.items()]


def test_every_file_is_tested_here():
    known = {"base.yaml", "smoke.yaml"}
    folders = {"data", "readers", "stages", "recipes"}
    found = {path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml")}
    assert all(name in known or name.split("/")[0] in folders for name in found)
    assert names("stages") == ["embed", "reader_raft", "score"], "a new stage needs a run of its own here"


def test_the_default_runs_one_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["fit", *ONE_STEP, *small()])


def test_the_best_weights_of_a_run_serve_the_other_verbs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["--data.init_args.max_train_queries=64", "--data.init_args.max_eval_queries=40", "--trainer.max_epochs=1"]
    main(["fit", *few, *small(), "--test_after_fit", "false"])
    for verb, written in (("validate", "results_val.json"), ("test", "results.json"), ("predict", "predictions/predict.jsonl")):
        main([verb, "-c", "runs/smoke-001/config.yaml", "--ckpt_path", "best"])
        assert (tmp_path / "runs" / "smoke-001" / written).exists()


@pytest.mark.data
@pytest.mark.parametrize("name", [name for name in names("data") if name != "minihospital"])
def test_data_configs_run_one_step(name, medrag_data, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRAG_DATA", str(medrag_data))
    monkeypatch.chdir(tmp_path)
    main(["fit", "-c", "stages/reader_raft", "-c", f"data/{name}", *ONE_STEP, *small()])


def test_the_embedding_stage_makes_the_store_that_the_next_run_searches(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["predict", "-c", "data/minihospital", "-c", "stages/embed"])
    shards = list(Path("runs/evidence").rglob("*.npy"))
    assert shards
    main(["fit", *ONE_STEP, *small()])
    assert list(Path("runs/evidence").rglob("manifest.json"))


def test_the_scoring_stage_makes_a_table_with_the_weights_of_a_reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["--data.init_args.max_train_queries=16", "--data.init_args.max_eval_queries=4"]
    main(["fit", *few, *small(), "--trainer.max_epochs=1", "--test_after_fit", "false"])
    (weights,) = Path("runs/smoke-001/checkpoints").glob("best*.ckpt")
    scoring = ["-c", "stages/score", "-c", "smoke", *few, *small(), f"--model.init_args.init_from={weights}"]
    main(["predict", "-c", "data/minihospital", *scoring])
    assert {path.name for path in Path("runs/scores").iterdir()} == {"identity.json", "scores.arrow", "manifest.json"}
    assert not list(Path("runs").rglob("predict.jsonl"))


@pytest.mark.parametrize("name", names("readers"))
def test_reader_presets_run_one_step(name, tmp_path, monkeypatch):
    """With the preset's own settings, on a folder of random weights of its family in place of the hub's."""
    monkeypatch.chdir(tmp_path)
    command = ["fit", "-c", "stages/reader_raft", "-c", "data/minihospital", "-c", f"readers/{name}", *ONE_STEP]
    if name == "tiny":
        main([*command, *small()])
        return
    FOLDERS[name](tmp_path / "weights")
    main([*command, f"--{TINY}.init_args.name={tmp_path / 'weights'}"])


def test_a_hub_name_without_a_network_is_told_plainly(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as ending:
        main(["fit", "-c", "data/minihospital", "-c", "stages/reader_raft", "-c", "readers/llava", *ONE_STEP])
    assert ending.value.code == 2
    assert "llava-hf/llava" in capsys.readouterr().err
