"""Every command, option, setting and block of README.md and configs/README.md is run, small: documentation cannot rot.

`documentation` collects them, `documentation_table` says how each is run and by which test. What takes minutes is in
test_documented_recipes.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "handoff"))
from bundle_world import in_this_process
from documentation import documented
from documentation_table import TABLE, How
from documented_world import ROOT, blocks, check, entries, perform, printed_config, read, run_python, say, ward

from medrag_lightning.cli.check_options import read_options
from medrag_lightning.cli.help import VERB_HELP
from medrag_lightning.handoff.bundle import export as exporting

pytestmark = pytest.mark.timeout(900)  # the story is told in one fixture, in a minute on an idle core
HERE = ("own data", "afterwards", "handed on", "options", "check options", "recipe options", "yaml blocks", "scripts")
SLOW = ("jomed", "real data", "several processes", "own recipe", "steering")  # in test_documented_recipes
RAFT = ["fit", "-c", "stages/reader_raft", "-c", "data/minihospital"]
BASES = {
    "-c stages/retriever_kl_jomed": ["fit", "-c", "data/minihospital", "-c", "stages/retriever_kl"],
    "-c retrievers/clip": ["fit", "-c", "data/minihospital", "-c", "stages/retriever_contrastive"],
    "FOLDER": [*RAFT, "-c", "readers/qwen2_vl"],
    "layers: critical": [*RAFT, "--model.init_args.steering={retrieved: {policy: paper}}"],
}


@pytest.mark.parametrize("file", TABLE)
def test_everything_documented_has_its_entry_and_every_entry_is_documented(file):
    told = {}
    for one in read(file):
        label = one.kind if one.kind in ("yaml", "python") else one.text
        mine = told.setdefault(one.section, [])
        if label not in mine or label == one.kind:  # a command that is named twice in a section is run once
            mine.append(label)
    assert told == {section: [how.text for how in hows] for section, hows in TABLE[file].items()}


@pytest.mark.parametrize("file", TABLE)
def test_every_entry_is_run_by_a_test(file):
    for how in (how for hows in TABLE[file].values() for how in hows):
        path, _, name = how.test.partition("::")
        if path.endswith(".py"):
            text = (ROOT / "tests" / path).read_text()
            assert f"def {name or 'test_'}" in text, how
            assert not how.text.startswith("--") or how.text.split()[0].removeprefix("--") in text, how
        else:
            assert how.test in (*HERE, *SLOW), how


def test_the_parser_finds_every_kind(tmp_path):
    text = (
        "# One\n```bash\na b \\\n  c  # why\n\n# note\nd\n```\nsay `run x --y` or `--z\n1`, `Class`, `k.k: 3`, `scripts/a.py`\n"
    )
    (tmp_path / "a.md").write_text(text + "## Two\n```yaml\na: 1\n```\n\n    python -m x\n\n    k:\n      v: 2\n")
    found = [(one.kind, one.text, one.section) for one in documented(tmp_path / "a.md")]
    assert found == [
        ("command", "a b c", "One"), ("command", "d", "One"), ("command", "run x --y", "One"), ("option", "--z 1", "One"),
        ("setting", "k.k: 3", "One"), ("script", "scripts/a.py", "One"), ("yaml", "a: 1\n", "Two"),
        ("command", "python -m x", "Two"), ("yaml", "k:\n  v: 2\n", "Two"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The story "Your own data in 25 lines", told to its end: the folder, and what each command printed."""
    folder = tmp_path_factory.mktemp("ward")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MEDRAG_RUN_FOLDER", raising=False)
        places, said = ward(folder), {}
        for *_, how in entries("own data"):
            if how.text.startswith("export "):
                name, _, value = how.text.removeprefix("export ").partition("=")
                patch.setenv(name, str(folder / "data"))
                assert value == "/path/to/data"
            elif how.text != "yaml":  # which is mine.yaml
                said[how.text] = perform(how, **places)
        yield places, said


def test_your_own_data_in_25_lines(own):
    text = Path("mine.yaml").read_text()
    assert text.count("\n") <= 25
    _, said = own
    first = next(out for text, out in said.items() if "check -c" in text)
    assert "0 errors" in first
    for part in ("machine", "memory", "time", "disk"):  # as the comment beside it says
        assert re.search(rf"^ *{part}", first, re.MULTILINE), part
    assert "not looked at" not in first
    report = Path("runs/qwen2_vl-001/report.html").read_text()
    assert not re.search(r"https?://", report)
    assert "bf16-mixed" in Path("runs/qwen2_vl-001/config.yaml").read_text()


@pytest.mark.parametrize("entry", [one for one in entries("afterwards") if one[2].text != "yaml"], ids=lambda one: one[2].text)
def test_what_goes_on_from_there(own, entry):
    places, how = own[0], entry[2]
    if "FOLDER" in how.text:
        (store,) = {path.parent for path in Path("runs/evidence").rglob("manifest.json")}
        places = {**places, "FOLDER": store}
    perform(how, **places)


@pytest.mark.parametrize("entry", [one for one in entries("afterwards") if one[2].text == "yaml"], ids=lambda one: one[1])
def test_blocks_that_a_run_takes(own, entry, tmp_path):
    file, section, how = entry
    text = blocks(file, section, "yaml")[0].replace("openai/clip-vit-base-patch32", str(own[0]["CLIP"]))
    path = tmp_path / "block.yaml"
    path.write_text(text.replace("[retrieved, mcr]", "[retrieved]"))  # this run has no rivals
    words = ["test", "-c", "runs/mine-001/config.yaml", "--ckpt_path", "best", "-c", str(path)]
    if section == "Retrievers":
        words += shlex.split(next(how.text for how in TABLE[file][section] if "cache_folder" in how.text))
    check(how, say(words))


def test_a_bundle_is_asked_from_python_and_made_in_other_ways(own, monkeypatch):
    monkeypatch.setattr(exporting, "ask_in_clean_process", in_this_process)  # the story has proved one in a clean process
    asked = ["export", "runs/mine-001", "--ckpt_path", "best", "--output", "other", "--probes", "2"]
    hows = [how for *_, how in entries("handed on")]
    out = say([*asked, *(word for how in hows for word in how.words())])
    for how in hows:
        check(how, out)
    say(["answer", "other", "--image", "film.png", "--question", "is there an effusion?", "--choices", "yes,no"])
    assert "other: whole and unchanged" in say(["verify", "other"])  # asking writes nothing into it
    first, second = blocks("README.md", "Hand-off", "python")
    assert re.search("answer: (one|two|three)", run_python(first))
    run = {"runs/jomed/test/": "runs/qwen2_vl-001/", "runs/jomed/reader/": "runs/qwen2_vl-001/"}
    assert re.search("answer: (one|two|three)", run_python(second, run))
    answer = next(how for *_, how in entries("jomed") if " answer " in how.text)
    perform(answer)
    rows = Path("answers.jsonl").read_text().splitlines()
    assert len(rows) == len(Path("questions.jsonl").read_text().splitlines())
    assert not any('"error"' in row for row in rows)


@pytest.mark.parametrize("entry", entries("options"), ids=lambda one: one[2].text)
def test_options_and_settings_are_known_and_taken(entry):
    how = entry[2]
    words = shlex.split(how.text)
    if how.key:
        words = [f"--{how.key}", how.text.partition(": ")[2]]
    if len(words) == 1 or how.text == "--KEY VALUE":
        assert how.text in VERB_HELP["fit"]
        return
    base = next((base for part, base in BASES.items() if part in how.text), RAFT)
    told = printed_config([*base, *words])
    for name, value in zip(words[::2], words[1::2], strict=True):
        found = told
        for key in name.removeprefix("--").split(".") if name != "-c" else ():
            found = found[key]
        assert name == "-c" or holds(found, value), name


def holds(found, value):
    """Whether a setting came to the value, be it a number, a text, or a mapping whose other keys have their defaults."""
    read = yaml.safe_load(value)
    if isinstance(read, dict):
        return isinstance(found, dict) and read.items() <= found.items()
    return found == (float(value) if re.fullmatch(r"[0-9.]+e-?[0-9]+", value) else read)


def test_options_of_check_and_of_recipes_are_taken():
    for *_, how in entries("check options"):
        assert read_options(shlex.split(how.text)).parts == ("plan",)
    values = {"--data": "data/minihospital_texts", "--reader": "readers/tiny", "--folder": "there", "--devices": "2"}
    for path in sorted((ROOT / "configs" / "recipes").glob("*.yaml")):
        recipe = yaml.safe_load(path.read_text())
        step = next(step["name"] for step in recipe["steps"] if step["verb"] == "fit")
        for *_, how in entries("recipe options"):
            words = shlex.split(how.text.replace("STEP.KEY=VALUE", f"{step}.trainer.max_steps=3").replace("STEP", step))
            words += [values[words[0]]] if len(words) == 1 and words[0] in values else []
            if words[0] == "--reader" and "reader" not in recipe["variables"]:
                continue  # a recipe that trains retrievers alone
            out = say(["run", path.stem, *words, "--dry_run"])
            assert out.count("medrag_lightning") >= 5
            assert words[-1].split("=")[-1] in out or words[0] in ("--dry_run", "--from")


@pytest.mark.parametrize("text", sorted({h.text for f in TABLE.values() for s in f.values() for h in s if " run " in h.text}))
def test_documented_recipes_can_be_planned(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert say([*How(text, "").words(), "--dry_run"]).count("medrag_lightning") >= 5


@pytest.mark.parametrize("entry", entries("yaml blocks"), ids=lambda one: one[1])
def test_blocks_are_accepted(entry, tmp_path):
    file, section, how = entry
    (tmp_path / "block.yaml").write_text(blocks(file, section, "yaml")[0])
    told = printed_config([*RAFT, "-c", str(tmp_path / "block.yaml")])
    assert how.says in yaml.safe_dump(told)


STUB = """\
#!/bin/bash
echo "$(basename "$0") $*" >> "$CALLS"
case "$1" in -c) echo "$PREFIX";; -) cat > /dev/null; echo stamp;; esac
"""


@pytest.mark.parametrize("entry", entries("scripts"), ids=lambda one: one[2].text)
def test_scripts_start_what_they_promise(entry, tmp_path):
    """With stand-ins for every program, so that nothing is installed."""
    how = entry[2]
    for name in ("python", "ruff", "mypy", "lint-imports"):
        (tmp_path / name).write_text(STUB)
        (tmp_path / name).chmod(0o755)
    calls = tmp_path / "calls.txt"
    changed = {"CALLS": str(calls), "PREFIX": str(tmp_path), "VIRTUAL_ENV": str(tmp_path), "CI": ""}
    changed["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(shlex.split(how.text), cwd=ROOT, env={**os.environ, **changed}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(how.says, calls.read_text())


def test_the_extra_that_pip_is_told_is_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = [how.text for section in TABLE["README.md"].values() for how in section if how.text.startswith("pip ")]
    assert told == [
        f"pip install '{project['name']}[{extra}]'" for extra in project["optional-dependencies"] if extra in told[0]
    ]
