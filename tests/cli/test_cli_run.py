"""The verbs from end to end, on a toy stage: train and test, stop, resume, evaluate."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml


def metrics(folder):
    with (Path(folder) / "metrics.csv").open() as stream:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(stream)]


def last(folder):
    return torch.load(Path(folder) / "checkpoints" / "last.ckpt", weights_only=True)


def weights(folder):
    return torch.cat([tensor.flatten() for tensor in last(folder)["state_dict"].values()])


def test_fit_trains_tests_and_leaves_a_run_folder(run):
    code, err = run("fit", "-c", "toy.yaml")
    assert code == 0, err
    folder = Path("runs/toy-001")
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoints", "config.yaml", "metrics.csv"]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best-step=4.ckpt", "last.ckpt"]
    assert "test/loss" in metrics(folder)[-1]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["trainer"]["default_root_dir"] == "runs/toy-001"
    assert config["trainer"]["gradient_clip_val"] == 1.0, "base.yaml was read"
    assert config["trainer"]["logger"]["init_args"]["save_dir"] == "${run_folder}"
    assert config["ckpt_path"] is None
    assert run("fit", "-c", "toy.yaml", "--test_after_fit", "false")[0] == 0
    assert not any("test/loss" in row for row in metrics("runs/toy-002"))


def test_stopped_and_resumed_run_equals_a_whole_one(run):
    assert run("fit", "-c", "toy.yaml")[0] == 0
    code, err = run("fit", "-c", "toy.yaml", "--model.init_args.signal_at", "1")
    assert code == 75
    assert "go on with: python -m medrag_lightning fit -c runs/toy-002/config.yaml --ckpt_path last" in err
    arguments = ["--ckpt_path", "last", "--model.init_args.signal_at", "null"]
    code, err = run("fit", "-c", "runs/toy-002/config.yaml", *arguments)
    assert code == 0, err
    assert torch.equal(weights("runs/toy-001"), weights("runs/toy-002"))
    assert metrics("runs/toy-001") == metrics("runs/toy-002")
    assert Path("runs/toy-002/config.before_resume_1.yaml").exists()


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_during_the_test_is_no_success_either(run, number, expected):
    if number is signal.SIGINT:  # a shell's background job starts with it ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code, err = run("fit", "-c", "toy.yaml", "--trainer.max_epochs", "1", "--model.init_args.test_signal", int(number))
    assert code == expected
    assert "go on with: python -m medrag_lightning fit -c runs/toy-001/config.yaml --ckpt_path last" in err
    arguments = ["--ckpt_path", "last", "--model.init_args.test_signal", "null"]
    assert run("fit", "-c", "runs/toy-001/config.yaml", *arguments)[0] == 0
    assert "test/loss" in metrics("runs/toy-001")[-1]


def test_the_last_run_of_a_name_is_found(run):
    for _ in range(2):
        assert run("fit", "-c", "toy.yaml", "--trainer.max_epochs", "1", "--test_after_fit", "false")[0] == 0
    Path("runs/toy-003").mkdir()
    assert run("fit", "-c", "toy.yaml", "--ckpt_path", "last", "--test_after_fit", "false")[0] == 0
    assert last("runs/toy-002")["global_step"] == 8
    assert last("runs/toy-001")["global_step"] == 4


def test_other_verbs_use_the_run_and_leave_its_config(run):
    assert run("fit", "-c", "toy.yaml", "--trainer.default_root_dir", "mine")[0] == 0
    before = Path("mine/config.yaml").read_bytes()
    for verb, which in {"validate": "last", "test": "best", "predict": "mine/checkpoints/last.ckpt"}.items():
        code, err = run(verb, "-c", "mine/config.yaml", "--ckpt_path", which)
        assert code == 0, err
    assert Path("mine/config.yaml").read_bytes() == before
    assert not Path("runs").exists()
    assert sum("test/loss" in row for row in metrics("mine")) == 2


def test_a_started_run_is_not_overwritten(run):
    arguments = ["fit", "-c", "toy.yaml", "--trainer.default_root_dir", "mine"]
    assert run(*arguments)[0] == 0
    code, err = run(*arguments)
    assert code == 2
    assert "mine already holds a run" in err
    assert "--ckpt_path last" in err
    assert "another --trainer.default_root_dir" in err
    assert run(*arguments, "--ckpt_path", "last")[0] == 0


@pytest.mark.parametrize("root", [[], ["--trainer.default_root_dir", "empty"]])
def test_last_without_a_checkpoint_is_an_error(run, root):
    code, err = run("fit", "-c", "toy.yaml", "--ckpt_path", "last", *root)
    assert code == 2
    assert "checkpoint" in err
    assert "without --ckpt_path" in err


def test_checkpoints_that_do_not_fit_are_refused(run):
    assert run("fit", "-c", "toy.yaml", "--trainer.default_root_dir", "mine", "--test_after_fit", "false")[0] == 0
    other = ["--model.class_path", "toy_parts.OtherStage", "--trainer.default_root_dir", "mine"]
    code, err = run("fit", "-c", "toy.yaml", *other, "--ckpt_path", "last")
    assert code == 2
    assert "of stage 'toy', this run is stage 'other'" in err
    reading = [*other[:1], "toy_parts.ReadingStage", *other[2:], "--ckpt_path", "last"]
    assert run("test", "-c", "toy.yaml", *reading)[0] == 0
    code, err = run("fit", "-c", "toy.yaml", *reading)
    assert code == 2
    assert "of stage 'toy', this run is stage 'reading'" in err
    path = Path("mine/checkpoints/last.ckpt")
    path.write_bytes(path.read_bytes()[:-200])
    code, err = run("fit", "-c", "mine/config.yaml", "--ckpt_path", "last")
    assert code == 2
    assert "last.ckpt is damaged" in err
    assert "best-step=" in err
    code, err = run("test", "-c", "mine/config.yaml", "--ckpt_path", "mine/none.ckpt")
    assert code == 2
    assert "mine/none.ckpt does not exist" in err


def test_hyperparameters_in_a_checkpoint_change_nothing(run):
    assert run("fit", "-c", "toy.yaml", "--trainer.default_root_dir", "mine")[0] == 0
    checkpoint = last("mine")
    checkpoint["hyper_parameters"] = {"rate": 0.9, "_class_path": "toy_parts.OtherStage"}
    torch.save(checkpoint, "mine/checkpoints/last.ckpt")
    code, err = run("fit", "-c", "mine/config.yaml", "--ckpt_path", "last")
    assert code == 0, err
    model = yaml.safe_load(Path("mine/config.yaml").read_text())["model"]
    assert model["class_path"] == "toy_parts.Stage"
    assert model["init_args"]["rate"] == 0.1


def test_one_seed_for_all(run, toy):
    assert run("fit", "-c", "toy.yaml", "--test_after_fit", "false")[0] == 0
    assert run("fit", "-c", "toy.yaml", "--test_after_fit", "false", "--seed_everything", "7")[0] == 0
    assert not torch.equal(weights("runs/toy-001"), weights("runs/toy-002"))
    path = toy / "toy.yaml"
    path.write_text(path.read_text().replace("    rate: 0.1", "    seed: 3"))
    code, err = run("fit", "-c", "toy.yaml")
    assert code == 2
    assert "toy.yaml:23: the seed of model is that of the run; set seed_everything instead" in err


def test_environment_variables_are_filled_in_and_not_saved(run, toy, monkeypatch):
    path = toy / "toy.yaml"
    path.write_text(path.read_text().replace("filename: best-{step}", 'filename: "${MY_NAME}-{step}"'))
    code, err = run("fit", "-c", "toy.yaml")
    assert code == 2
    assert "${MY_NAME}-{step}: the environment variable MY_NAME is not set" in err
    monkeypatch.setenv("MY_NAME", "mine")
    assert run("fit", "-c", "toy.yaml")[0] == 0
    assert Path("runs/toy-001/checkpoints/mine-step=4.ckpt").exists()
    assert "${MY_NAME}-{step}" in Path("runs/toy-001/config.yaml").read_text()


def command(toy, toy_folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(toy_folder), "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
    words = [sys.executable, "-m", "medrag_lightning", "fit", "-c", "toy.yaml", *arguments]
    return subprocess.Popen(words, cwd=toy, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for(path, process):
    for _ in range(2400):
        if path.exists() and len(path.read_text().splitlines()) > 3:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


DDP = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
SLOW = ["--trainer.max_epochs", "200", "--model.init_args.step_seconds", "0.02"]


@pytest.mark.parametrize(
    ("number", "code", "extra"), [(signal.SIGTERM, 75, DDP), (signal.SIGINT, 130, [])], ids=["TERM, two ranks", "INT"]
)
def test_signal_to_the_process_saves_and_tells(toy, toy_folder, number, code, extra):
    process = command(toy, toy_folder, *SLOW, *extra)
    folder = toy / "runs" / "toy-001"
    wait_for(folder / "metrics.csv", process)
    process.send_signal(number)
    out, err = process.communicate(timeout=150)
    assert process.returncode == code, (out, err)
    assert err.count("go on with: python -m medrag_lightning fit -c runs/toy-001/config.yaml") == 1
    assert len(list((toy / "runs").iterdir())) == 1, "all ranks share one run folder"
    step = last(folder)["global_step"]
    assert step == int(metrics(folder)[-1]["step"]) + 1, "the saved step is the last logged one"


def test_null_reaches_a_setting_however_deep_it_lies(run):
    """A path must not become the text None, and a number must not refuse it."""
    schedule, head = "--model.init_args.schedule", "--model.init_args.head.init_args"
    words = [f"{schedule}.floor=null", f"{schedule}.cycles", "[3]", f"{schedule}.cycles", "null"]
    words += [f"{head}.weights=null", f'{head}.bias={{"of none": null, "None": 1.5}}', "--model.init_args.signal_at=null"]
    code, err = run("fit", "-c", "toy.yaml", *words, "--print_config")
    assert code == 0, err
    told = yaml.safe_load(run.out)["model"]["init_args"]
    assert told["schedule"] == {"warmup_steps": 2, "shape": "flat", "floor": None, "cycles": None}
    assert told["head"]["init_args"] == {"width": 3, "weights": None, "bias": {"of none": None, "None": 1.5}}
    code, err = run("fit", "-c", "toy.yaml", f"{schedule}.floor=None of them")
    assert code == 2
    assert "model.schedule.floor: expected a number or null, got 'None of them'" in err


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_a_precision_that_converts_batches_is_refused(run, precision):
    code, err = run("fit", "-c", "toy.yaml", "--trainer.precision", precision)
    assert code == 2
    assert f"--trainer.precision {precision}" in err
    assert "Take bf16-mixed" in err
