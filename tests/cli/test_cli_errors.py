"""Every mistake a user can make is told in a few lines, with its place and the way out, and exit code 2."""

import subprocess
import sys

import pytest

CASES = {
    "top-level key": ("trainer:\n", "trainr:\n", [r"toy.yaml:1: unknown key 'trainr'; did you mean 'trainer'?"]),
    "trainer key": ("max_epochs:", "max_epoch:", ["toy.yaml:3: trainer.max_epoch: ", "did you mean 'max_epochs'?"]),
    "trainer type": (
        "max_epochs: 2",
        "max_epochs: many",
        ["toy.yaml:3: trainer.max_epochs: expected a whole number or null", "'many'"],
    ),
    "stage setting": (
        "    rate:",
        "    rat:",
        ["toy.yaml:23: model.rat: unknown setting; did you mean 'rate'?", "Stage takes: head"],
    ),
    "nested setting": ("width:", "widht:", ["toy.yaml:22: model.head.widht: ", "did you mean 'width'?", "Head takes: width"]),
    "stage type": ("rate: 0.1", "rate: fast", ["toy.yaml:23: model.rate: expected a number, got 'fast'"]),
    "nested type": ("width: 3", "width: wide", ["toy.yaml:22: model.head.width: expected a whole number, got 'wide'"]),
    "group key": ("warmup_steps:", "warmup:", ["toy.yaml:25: model.schedule.warmup: ", "did you mean 'warmup_steps'?"]),
    "group choice": (
        "warmup_steps: 2",
        "shape: round",
        ["toy.yaml:25: model.schedule.shape: expected one of 'flat', 'cosine'", "'round'"],
    ),
    "class": (
        "toy_parts.Stage",
        "toy_parts.Stag",
        ["toy.yaml:17: model: no class 'toy_parts.Stag'", "did you mean toy_parts.Stage?"],
    ),
    "module": (
        "toy_parts.Stage",
        "toy_part.Stage",
        ["toy.yaml:17: model: no class 'toy_part.Stage'", "did you mean toy_parts.Stage?"],
    ),
    "nested class": ("toy_parts.Head", "toy_parts.Haed", ["toy.yaml:20: model.head: no class", "did you mean toy_parts.Head?"]),
    "wrong kind": ("toy_parts.Head", "toy_parts.Data", ["toy.yaml:20: model.head: toy_parts.Data is not a kind of Head"]),
    "callback setting": (
        "  every_n_steps:",
        "  every_n_step:",
        ["toy.yaml:15: trainer.callbacks.every_n_step: ", "did you mean 'every_n_steps'?"],
    ),
    "callback class": (
        "LastCheckpoint",
        "LstCheckpoint",
        ["toy.yaml:13: trainer.callbacks: no class", "did you mean callbacks.last_checkpoint.LastCheckpoint?"],
    ),
    "required setting": (
        "    optimizer:\n      class_path: torch.optim.Adam\n      init_args:\n        lr: 0.1\n",
        "",
        ["missing, and without a default: optimizer of Stage"],
    ),
    "value refused by the class": ("width: 3", "width: 0", ["width must be at least 1, got 0"]),
    "syntax": ("rate: 0.1", "rate: [0.1", ["toy.yaml:24:", "not valid YAML"]),
    "repeated key": (
        "    rate: 0.1\n",
        "    rate: 0.1\n    rate: 0.2\n",
        ["toy.yaml:24: key 'rate' stands twice, first in line 23"],
    ),
    "no mapping": ("", None, ["toy.yaml:1: expected `key: value`"]),
}


@pytest.mark.parametrize("case", CASES)
def test_mistake_in_a_file(run, toy, case):
    old, new, expected = CASES[case]
    path = toy / "toy.yaml"
    path.write_text("- 1\n" if new is None else path.read_text().replace(old, new, 1))
    code, err = run("fit", "-c", "toy.yaml")
    assert code == 2, err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    for part in expected:
        assert part in err
    assert not list(toy.glob("runs/*")), "a mistake leaves no empty run folder"


COMMANDS = {
    "missing file": (["fit", "-c", "tey.yaml"], ["config file 'tey.yaml' not found"]),
    "short name": (["fit", "-c", "data/smok"], ["config file 'data/smok' not found", "did you mean"]),
    "no file name": (["fit", "-c"], ["-c needs a file name"]),
    "option": (["fit", "-c", "toy.yaml", "--modl.rate", "3"], ["not understood: --modl.rate 3"]),
    "option type": (
        ["fit", "-c", "toy.yaml", "--trainer.max_epochs", "x"],
        ["command line, --trainer.max_epochs: ", "got 'x'"],
    ),
    "stage option": (
        ["fit", "-c", "toy.yaml", "--model.init_args.rat", "3"],
        ["command line, --model.init_args.rat: ", "'rate'"],
    ),
    "stage option type": (
        ["fit", "-c", "toy.yaml", "--model.init_args.rate=x"],
        ["command line, --model.init_args.rate: ", "a number"],
    ),
    "extra word": (["fit", "-c", "toy.yaml", "now"], ["not understood: now"]),
    "verb": (["fti"], ["unknown verb 'fti'; did you mean 'fit'?"]),
    "test without config": (["test"], ["test needs -c"]),
    "index without store": (["index"], ["index: ", "--store"]),
    "index kind": (["index", "--store", ".", "--kind", "tree"], ["index: ", "tree"]),
    "index folder": (["index", "--store", "nowhere"], ["nowhere is not a folder"]),
    "explore without config": (["explore"], ["explore needs -c", "-c stages/explore"]),
    "explore of no plan": (["explore", "-c", "toy.yaml"], ["data.exploration is not set", "add -c stages/explore"]),
    "trace without config": (["trace"], ["trace needs -c", "-c stages/trace"]),
    "trace of no plan": (["trace", "-c", "toy.yaml"], ["data.exploration.traces is not set", "add -c stages/trace"]),
    "pairs without config": (["pairs"], ["pairs needs -c", "-c stages/reader_preference"]),
    "pairs of no plan": (["pairs", "-c", "toy.yaml"], ["data.preference is not set", "add -c stages/reader_preference"]),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_mistake_on_the_command_line(run, case):
    arguments, expected = COMMANDS[case]
    code, err = run(*arguments)
    assert code == 2, err
    assert "Traceback" not in err
    for part in expected:
        assert part in err


def test_a_fault_of_the_program_keeps_its_traceback(run):
    with pytest.raises(RuntimeError, match="a fault of the program"):
        run("fit", "-c", "toy.yaml", "--data.init_args.fail", "true")


def test_debugging_shows_the_traceback_of_a_mistake(run, monkeypatch):
    monkeypatch.setenv("MEDRAG_DEBUG", "1")
    with pytest.raises(ValueError, match="unknown verb"):
        run("fti")


def test_exit_code_of_the_process():
    done = subprocess.run([sys.executable, "-m", "medrag_lightning", "fti"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert not done.stdout
