"""`run`: steps in order, done ones skipped, interrupted ones resumed, changed ones refused, ranks under srun in step."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medrag_lightning.cli.launch import find_ranks, program
from medrag_lightning.cli.recipe_plan import best_checkpoint
from medrag_lightning.cli.step_state import read_record

RECIPE = """\
name: fake
variables: {epochs: 1}
steps:
  - {name: one, verb: fit, configs: [smoke], arguments: {trainer.max_epochs: "${epochs}"}}
  - {name: two, verb: index, arguments: {store: "${steps.one}"}}
  - {name: three, verb: test, configs: [smoke], arguments: {ckpt_path: "${steps.one.last}"}}
"""

# Stands for `python -m medrag_lightning`: notes how it was called, and ends as the file named after its verb says.
FAKE = """\
import json, os, signal, sys, time
from pathlib import Path
verb, words = sys.argv[1], sys.argv[2:]
names = ("SLURM_PROCID", "MEDRAG_RUN_FOLDER")
with open("calls.jsonl", "a") as stream:
    stream.write(json.dumps([verb, words, [os.environ.get(name) for name in names]]) + "\\n")
root = next((Path(w.split("=")[1]) for w in words if w.startswith("--trainer.default_root_dir")), None)
if verb == "fit":
    (root / "checkpoints").mkdir(parents=True, exist_ok=True)
    (root / "checkpoints" / "last.ckpt").write_text("")
print("output of", verb, flush=True)
told = Path(f"end_{verb}")
code = told.read_text() if told.exists() and os.environ.get("SLURM_PROCID", "0") == "0" else "0"
if code == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    print("waiting", flush=True)
    time.sleep(60)
sys.exit(int(code))
"""


@pytest.fixture
def fake(run, tmp_path, monkeypatch):
    """Runs recipes with a stand-in for the program; `fake.calls()` gives what was launched since last asked."""
    (tmp_path / "fake.py").write_text(FAKE)
    (tmp_path / "fake.yaml").write_text(RECIPE)
    monkeypatch.setattr("medrag_lightning.cli.run.program", lambda *_: [sys.executable, "fake.py"])

    def recipe(*arguments):
        code, err = run("run", "fake.yaml", *arguments)
        return code, run.out, err

    def calls():
        path = tmp_path / "calls.jsonl"
        told = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
        return told

    recipe.calls = calls
    return recipe


def test_steps_run_once_in_order_with_a_log_and_a_table(fake):
    code, out, _ = fake()
    assert code == 0
    launched = fake.calls()
    assert [verb for verb, *_ in launched] == ["fit", "index", "test"]
    assert launched[1][1] == ["--store=runs/fake/one"]
    assert "--ckpt_path=runs/fake/one/checkpoints/last.ckpt" in launched[2][1]
    assert all(environment == [None, None] for *_, environment in launched)
    assert "[2/3] two: index" in out
    assert "  output of index" in out
    assert "fake in runs/fake" in out
    assert "output of test\n" in Path("runs/fake/three/log.txt").read_text()
    code, out, _ = fake()
    assert (code, fake.calls()) == (0, [])
    assert out.count("done before") == 3


def test_a_failure_passes_its_code_on_and_the_same_command_goes_on(fake):
    Path("end_index").write_text("3")
    code, out, err = fake()
    assert code == 3
    assert "failed (3)" in out
    assert "not run" in out
    assert "step 'two' ended with exit code 3; its log: runs/fake/two/log.txt" in err
    Path("end_index").unlink()
    fake.calls()
    assert fake()[0] == 0
    assert [verb for verb, *_ in fake.calls()] == ["index", "test"]
    _, out, _ = fake("--from", "two")
    assert "left, by the last run" in out


def test_an_unfinished_fit_goes_on_from_its_last_checkpoint(fake):
    Path("end_fit").write_text("75")
    assert fake()[0] == 75
    Path("end_fit").unlink()
    assert fake("--only", "one")[0] == 0
    first, second = fake.calls()
    assert "--ckpt_path=last" not in first[1]
    assert "--ckpt_path=last" in second[1]
    assert read_record(Path("runs/fake/one")).done


def test_changes_are_told_and_run_only_when_asked(fake):
    fake()
    fake.calls()
    code, _, err = fake("--epochs", "2")
    assert (code, fake.calls()) == (2, [])
    assert "step 'one' was run with other settings: trainer.max_epochs was 1, is 2." in err
    assert "add --from one" in err
    code, out, _ = fake("--epochs", "2", "--from", "one")
    assert code == 0
    assert "one: what was there is now runs/fake/one.before-1" in out
    assert len(fake.calls()) == 3
    code, _, err = fake("--epochs", "2", "--set", "three.trainer.limit_test_batches=1")
    assert code == 2
    assert "step 'three' was run with other settings: trainer.limit_test_batches was not given, is 1" in err


def test_a_step_alone_needs_those_before_it(fake):
    code, _, err = fake("--only", "three")
    assert code == 2
    assert "step 'one' comes first and is not done" in err
    assert fake("--only", "one")[0] == 0
    code, _, err = fake("--from", "three")
    assert "step 'two' comes first and is not done" in err


def test_a_step_that_runs_again_leaves_no_later_one_as_done(fake):
    fake()
    Path("runs/fake/two/step.json").unlink()
    fake.calls()
    assert fake("--only", "two")[0] == 0
    assert Path("runs/fake/three.before-1").exists()
    assert fake()[0] == 0
    assert [verb for verb, *_ in fake.calls()] == ["index", "test"]


def test_dry_run_prints_and_leaves_nothing(fake):
    code, out, _ = fake("--dry_run", "--devices", "2", "--launcher", "torchrun")
    assert (code, fake.calls()) == (0, [])
    assert not Path("runs").exists()
    assert "# 3 three: not run yet" in out


def test_mistakes_in_the_options_are_told(fake, run):
    assert "name a recipe first" in run("run")[1]
    for words, told in {
        ("--launcher", "torchrun"): "say how many with --devices N",
        ("--devices", "none"): "--devices must be a number from 1, got 'none'",
        ("--from", "one", "--only", "two"): "give --from or --only, not both",
        ("--from", "too"): "--from too: fake.yaml has no such step; did you mean 'two'?",
        ("--epochs",): "--epochs needs a value",
        ("extra",): "not understood: 'extra'",
    }.items():
        code, _, err = fake(*words)
        assert code == 2
        assert told in err


def test_programs():
    assert program("python", None, "fit")[1:] == ["-m", "medrag_lightning"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "medrag_lightning"]
    assert program("torchrun", "2", "fit")[1:] == torchrun
    assert program("torchrun", "2", "index")[1:] == ["-m", "medrag_lightning"]


SLURM = {"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3"}


def test_ranks_are_read_from_the_environment():
    ranks = find_ranks(SLURM)
    assert (ranks.rank, ranks.size, ranks.devices, ranks.nodes) == (3, 4, 2, 2)
    assert find_ranks({"SLURM_NTASKS": "1"}).size == 1
    with pytest.raises(ValueError, match="write: srun python -m medrag_lightning run"):
        find_ranks({"SLURM_NTASKS": "4"})
    with pytest.raises(ValueError, match="start it once, without torchrun"):
        find_ranks({"TORCHELASTIC_RUN_ID": "x"})


DRIVER = "import sys; from medrag_lightning.cli import run, main; run.program = lambda *_: [sys.executable, 'fake.py']; main()"


def start(folder, **environment):
    """`run fake.yaml` in a process of its own, with the stand-in for the program."""
    command = [sys.executable, "-c", DRIVER, "run", "fake.yaml"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, **pipes)


def test_every_rank_of_srun_launches_what_rank_0_decides(fake, tmp_path):
    tasks = {**SLURM, "SLURM_NTASKS": "2"}
    ranks = [start(tmp_path, **{**tasks, "SLURM_PROCID": str(rank)}) for rank in (1, 0)]
    assert [process.communicate(timeout=60)[1] for process in ranks] == ["", ""]
    assert [process.returncode for process in ranks] == [0, 0]
    launched = sorted((environment[0], verb) for verb, _, environment in fake.calls())
    assert launched == [("0", "fit"), ("0", "index"), ("0", "test"), ("1", "fit"), ("1", "test")]
    words = Path("runs/fake/one/log.rank1.txt").read_text()
    assert "--trainer.devices=1 --trainer.num_nodes=2" in words


def test_a_rank_that_fails_ends_the_others(fake, tmp_path):
    """Rank 0 would wait for a minute, as for a collective that rank 1 never reaches."""
    Path("end_fit").write_text("wait")
    tasks = {**SLURM, "SLURM_NTASKS": "2"}
    broken = tmp_path / "fake.py"
    broken.write_text(FAKE.replace('else "0"', 'else "4"'))
    ranks = [start(tmp_path, **{**tasks, "SLURM_PROCID": str(rank)}) for rank in (1, 0)]
    for process in ranks:
        process.communicate(timeout=30)
    assert ranks[0].returncode == 4
    assert ranks[1].returncode != 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_signals_reach_the_step(fake, tmp_path, number, code):
    Path("end_fit").write_text("wait")
    process = start(tmp_path)
    log = Path("runs/fake/one/log.txt")
    for _ in range(300):
        if log.exists() and "waiting" in log.read_text():
            break
        time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "step 'one' was stopped" in err


def test_real_steps_and_their_best_checkpoint(run, toy):
    (toy / "toy_recipe.yaml").write_text(
        "name: toy\nsteps:\n"
        "  - {name: train, verb: fit, configs: [toy.yaml], arguments: {test_after_fit: false}}\n"
        "  - {name: test, verb: test, configs: ['${steps.train}/config.yaml'], arguments: {ckpt_path: '${steps.train.best}'}}\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "medrag_lightning", "run", "toy_recipe.yaml"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    best = best_checkpoint(Path("runs/toy/train"))
    assert best.name.startswith("best-")
    assert str(best) in Path("runs/toy/test/log.txt").read_text()
