"""Recipes are read, checked and planned: mistakes name file, line, step and key; a fingerprint tells what has changed."""

import shlex
from pathlib import Path

import pytest

from medrag_lightning.cli.launch import program
from medrag_lightning.cli.recipe import read_recipe
from medrag_lightning.cli.recipe_plan import Folder, command, plan, shell_line

RECIPE = """\
name: two
variables:
  data: data/minihospital
  extra: null
  epochs: 3
steps:
  - name: reader
    verb: fit
    configs: ["${data}", stages/reader_raft, "${extra}"]
    arguments:
      trainer.max_epochs: ${epochs}
      data.init_args.regimes: [retrieved, none]
      data.init_args.cache_folder: ${recipe}/evidence
      test_after_fit: false
  - name: test
    verb: test
    configs: ["${steps.reader}/config.yaml"]
    arguments:
      ckpt_path: ${steps.reader.best}
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text=RECIPE, **changes):
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        Path("two.yaml").write_text(text)
        return read_recipe("two.yaml")

    return write


def test_verbs_without_a_trainer_get_none_of_its_settings(recipe):
    arguments = "{data.init_args.preference.folder: '${recipe}/p'}"
    step = f"  - {{name: pairs, verb: pairs, configs: [data/minihospital], arguments: {arguments}}}\n"
    _, _, third = plan(recipe(RECIPE + step))
    words = command(third, Folder(Path("runs/two")), looking=False, devices="2")
    assert words == ["pairs", "-c", "data/minihospital", "--data.init_args.preference.folder=runs/two/p"]
    assert program("torchrun", "2", "pairs")[1:] == ["-m", "medrag_lightning"]


def test_commands_are_whole_and_can_be_copied(recipe):
    folder = Folder(Path("runs/two"))
    first, second = plan(recipe())
    words = command(first, folder, looking=False)
    assert words[:5] == ["fit", "-c", "data/minihospital", "-c", "stages/reader_raft"]
    assert {"--trainer.max_epochs=3", '--data.init_args.regimes=["retrieved", "none"]', "--test_after_fit=false"} <= set(words)
    assert {"--data.init_args.cache_folder=runs/two/evidence", "--trainer.default_root_dir=runs/two/reader"} <= set(words)
    assert shlex.split(shell_line(words, folder)) == words
    told = shell_line(command(second, folder, looking=False), folder)
    assert told.startswith('test -c runs/two/reader/config.yaml --ckpt_path="$(ls -t runs/two/reader/checkpoints/best*.ckpt')
    with pytest.raises(ValueError, match="runs/two/reader holds no checkpoint"):
        command(second, folder, looking=True)


def test_variables_and_arguments_are_changed_from_the_command_line(recipe):
    changed = recipe().with_variables({"data": "data/vqa_rad", "extra": "smoke"})
    changed = changed.with_arguments(["reader.trainer.max_epochs=7", "test.trainer.limit_test_batches=2"])
    first, second = (command(one, Folder(Path("f")), looking=False, devices="2") for one in plan(changed))
    assert first[:7] == ["fit", "-c", "data/vqa_rad", "-c", "stages/reader_raft", "-c", "smoke"]
    assert "--trainer.max_epochs=7" in first
    assert "--trainer.devices=2" in first
    assert "--trainer.limit_test_batches=2" in second


def test_a_change_shows_in_its_step_and_in_all_after_it(recipe, tmp_path):
    Path("mine.yaml").write_text("seed_everything: 1\n")
    base = recipe().with_variables({"extra": "mine.yaml"})

    def prints(one):
        return [step.fingerprint for step in plan(one)]

    before = prints(base)
    assert prints(base) == before
    later = prints(base.with_arguments(["test.trainer.limit_test_batches=2"]))
    assert later[0] == before[0]
    assert later[1] != before[1]
    Path("mine.yaml").write_text("seed_everything: 2\n")
    assert not set(prints(base)) & set(before)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("verb: fit", "verb: fti", r"two.yaml:7: step 'reader': verb 'fti' is not one of fit, validate"),
        ("    verb: test", "    verbs: test", r"two.yaml:16: unknown key 'verbs' of step 'test'; did you mean 'verb'\?"),
        ("variables:", "varables:", r"two.yaml:2: unknown key 'varables' of a recipe; did you mean 'variables'\?"),
        ("${epochs}", "${epoch}", r"two.yaml:7: step 'reader', trainer.max_epochs: \$\{epoch\} is no variable.*'epochs'\?"),
        ("steps.reader.best", "steps.raeder.best", r"names no earlier step; did you mean 'reader'\?"),
        ("steps.reader.best", "steps.test.best", r"names no earlier step"),
        ("steps.reader.best", "steps.reader.first", r"write \$\{steps.reader\}, \$\{steps.reader.best\} or"),
        ("test_after_fit: false", "ckpt_path: last", r"step 'reader': ckpt_path is set by `run` itself"),
        ("test_after_fit: false", "trainer.default_root_dir: x", r"default_root_dir is set by `run` itself"),
        ("name: test", "name: reader", r"two.yaml:15: two steps are named 'reader'"),
        ("name: two", "name: two words", r"name 'two words' must be letters"),
        ("extra: null", "steps: a", r"two.yaml:4: 'steps' cannot be the name of a variable"),
        ("stages/reader_raft", "stages/raeder_raft", r"two.yaml:7: step 'reader': config file 'stages/raeder_raft' not found"),
        ('configs: ["${data}", stages/reader_raft, "${extra}"]', "configs: smoke", r"configs must be a list of config files"),
    ],
)
def test_mistakes_are_named(recipe, old, new, message):
    with pytest.raises(ValueError, match=message):
        plan(recipe(**{old: new}))


def test_mistakes_on_the_command_line_are_named(recipe):
    with pytest.raises(ValueError, match=r"--dta: two.yaml has no such variable; did you mean 'data'"):
        recipe().with_variables({"dta": "x"})
    with pytest.raises(ValueError, match=r"--set raeder: two.yaml has no such step; did you mean 'reader'"):
        recipe().with_arguments(["raeder.trainer.max_epochs=3"])
    with pytest.raises(ValueError, match=r"--set max_epochs=3: write STEP.KEY=VALUE"):
        recipe().with_arguments(["max_epochs=3"])
    with pytest.raises(ValueError, match="recipe 'jomad': config file 'recipes/jomad' not found"):
        read_recipe("jomad")


def test_two_arguments_of_one_step_are_both_set():
    changed = read_recipe("jomed").with_arguments(["reader.trainer.max_epochs=4", "reader.data.init_args.batch_size=8"])
    arguments = changed.step("reader", "--set").arguments
    assert (arguments["trainer.max_epochs"], arguments["data.init_args.batch_size"]) == ("4", "8")
