"""The documented commands that take minutes: recipes, what is done with their folders, several processes, steering."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from documentation_table import READER, SMALL
from documented_world import ROOT, blocks, check, entries, perform, run_python, say, ward

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
FEW = ("data.init_args.max_train_queries=16", "data.init_args.max_eval_queries=8")
INNER = f"{READER}.backbone.init_args".removeprefix("--")
TRAIN = {"jomed": "contrastive reader text_head image_head", "mrrag": "contrastive reader", "hkpt": "contrastive reader"}
ASK = {  # steps that read questions
    "jomed": "reader score text_head image_head tune test",
    "mrrag": "reader score published fusion calibrate test",
    "hkpt": "reader score pairs tune sft test_before test_sft test",
}
READ = {"jomed": "reader score tune test", "mrrag": "reader score calibrate test", "hkpt": "reader score test_before"}
TUNED = {"hkpt": "tune sft test_sft test"}  # steps that read with a tuned reader
MORE = {
    "jomed": "",
    "mrrag": " ".join(f"--set={step}.trainer.max_steps=50" for step in ("published", "fusion")),
    "hkpt": "--updates 4 --set=tune.trainer.val_check_interval=2 --set=sft.trainer.val_check_interval=2",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEDRAG_RUN_FOLDER", raising=False)
    places = ward(tmp_path)
    monkeypatch.setenv("MEDRAG_DATA", str(tmp_path / "data"))
    return places


def shrunk(recipe: str) -> list[str]:
    """Options of `run` that leave one short epoch of each step; WEIGHTS stands for the reader's folder."""
    trained, asking, reading, tuned = (steps.get(recipe, "").split() for steps in (TRAIN, ASK, READ, TUNED))
    words = [f"--set={step}.trainer.max_epochs=1" for step in trained]
    words += [f"--set={step}.{setting}" for step in asking for setting in FEW]
    words += [f"--set={step}.{READER.removeprefix('--')}.name=WEIGHTS" for step in reading]
    words += [f"--set={step}.{INNER}.name=WEIGHTS" for step in tuned]
    return words + shlex.split(MORE[recipe])


def test_jomed_is_run_handed_on_and_reported(here):
    """One command, then the section "Hand-off", word by word, with its folders, and the report on the whole recipe."""
    for *_, how in entries("jomed"):
        if how.text.endswith("run jomed"):
            few = [word for word in shrunk("jomed") if not word.endswith("WEIGHTS")]
            few += [f"--set={step}.data.init_args.regimes=[retrieved, none]" for step in ("tune", "test")]
            check(how, say([*how.words(), "--candidates", "2", *few]))
        elif how.text != "python":
            perform(how)
    for text in blocks("README.md", "Hand-off", "python"):
        assert re.search("answer: (one|two|three)", run_python(text))


@pytest.mark.data
@pytest.mark.parametrize("entry", entries("real data"), ids=lambda one: one[2].text.removeprefix("python -m medrag_lightning "))
def test_recipes_run_on_public_data_with_another_reader(entry, here, medrag_data, monkeypatch):
    """A folder of random weights for the download; one device. Random weights have no critical layers: one is named by hand."""
    monkeypatch.setenv("MEDRAG_DATA", str(medrag_data))
    words = entry[2].words()
    recipe = words[1]
    words = ["1" if before == "--devices" else one for before, one in zip(["", *words], words, strict=False)]
    asked = [*words, *(word.replace("WEIGHTS", str(here["WEIGHTS"])) for word in shrunk(recipe))]
    if "critical" in words:
        with pytest.raises(AssertionError, match="ended with 2"):
            say(asked)
        name_layers(Path(f"runs/{recipe}/calibrate"))
    say(asked)
    folder = words[words.index("--folder") + 1] if "--folder" in words else f"runs/{recipe}"
    assert (Path(folder) / "test" / "results.json").is_file()


def name_layers(folder: Path) -> None:
    """Writes that the second layer is critical, where a reader that learnt for a moment has none."""
    found = folder / "critical_layers.json"
    told, count = re.subn(r'("evidence_to_question": )(\[\]|null)', r"\1[1]", found.read_text(), count=1)
    assert count == 1
    found.write_text(told)


def test_several_processes(here):
    """In a process of its own, whose command Lightning starts once more."""
    for *_, how in entries("several processes"):
        command = [sys.executable, "-m", "medrag_lightning", *how.words()]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        check(how, done.stdout)


def test_a_recipe_of_ones_own_runs(here):
    (block,) = blocks("configs/README.md", "Recipes", "yaml")
    Path("own.yaml").write_text(block)
    small = [f"--set=reader.{word.removeprefix('--')}" for word in SMALL.split()]
    say(["run", "own.yaml", "--data", "mine.yaml", "--epochs", "1", *small])
    assert Path("runs/mine/test/results.json").is_file()


def test_layers_are_found_and_steered(here):
    """The reader is trained for one epoch; the layers are then named by hand, for such a reader has none of its own."""
    shared = [
        "-c",
        "readers/mini",
        "-c",
        "data/minihospital",
        *SMALL.split(),
        f"{READER}.layers=3",
        *(f"--{word}" for word in FEW),
    ]
    raft = ["-c", "stages/reader_raft_all", *shared, "--trainer.max_epochs=1", "--test_after_fit=false"]
    say(["fit", *raft, "--data.init_args.regimes=[retrieved]", "--trainer.default_root_dir=runs/READER"])
    (best,) = Path("runs/READER/checkpoints").glob("best-*.ckpt")
    find, steer = (how for *_, how in entries("steering"))
    words = find.words(**{"best-STEP.ckpt": best.name})
    check(find, say([*words, f"{READER}.layers=3"]))
    name_layers(Path("runs/minihospital-001"))
    perform(steer)
