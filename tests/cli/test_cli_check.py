"""`check` reads configurations as the verbs do, says everything at once, and exits with 1 where there are errors."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
from PIL import Image

from medrag_lightning.cli import main
from medrag_lightning.cli.check_options import read_options
from medrag_lightning.data.audit.findings import Finding

CONFIG = """\
data:
  class_path: medrag_lightning.data.module.MedragData
  init_args:
    tables:
      - class_path: medrag_lightning.data.tables.JsonlQueries
        init_args:
          path: ${MY_DATA}/all.jsonl
    corpus:
      - class_path: medrag_lightning.data.tables.JsonlQueries
        init_args:
          path: ${MY_DATA}/all.jsonl
"""


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder with a sound table, its images and a config; it is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_DATA", str(tmp_path))
    rows = []
    for split, count in (("train", 60), ("val", 100), ("test", 100)):
        for number in range(count):
            name = f"{split}{number % 7}.png"
            if number < 7:
                Image.effect_noise((16, 16), 50).save(tmp_path / name)
            told = {"id": f"{split}-{number}", "question": f"is it {number}?", "image": name, "split": split}
            rows.append({**told, "answer": ("yes", "no")[number % 2], "choices": ["yes", "no"]})
    write(tmp_path, rows)
    (tmp_path / "my.yaml").write_text(CONFIG)
    return tmp_path


def write(folder, rows):
    (folder / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of(folder):
    return [json.loads(line) for line in (folder / "all.jsonl").read_text().splitlines()]


@pytest.fixture
def check(capsys):
    """Runs the verb; gives exit code, standard output and standard error."""

    def command(*words):
        code = 0
        try:
            main(["check", *map(str, words)])
        except SystemExit as ending:
            code = ending.code
        return code, *capsys.readouterr()

    return command


DATA = ("--only", "data", "--workers", "0")


def test_a_sound_configuration(world, check):
    code, out, err = check("-c", "my.yaml", *DATA)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("0 errors, 0 warnings, 1 note in 260 questions, 60 documents, 21 images; ")
    assert "note image_reused" in out


def test_findings_are_grouped_and_counted_and_the_worst_come_first(world, check):
    rows = rows_of(world)
    for number in range(13):
        rows[number]["question"] = ""
    rows[20]["answer"] = "maybe"
    rows[21]["image"] = "gone.png"
    write(world, rows)
    code, out, _ = check("-c", "my.yaml", *DATA, "--max_findings", "3", "--json", "found.json")
    assert code == 1
    heads = [line for line in out.splitlines() if line and line[0] not in " 0123456789"]
    assert [head.split()[:2] for head in heads] == [
        ["error", "text_empty"],
        ["error", "answer_outside_choices:"],
        ["error", "image_missing:"],
        ["warning", "split_tiny:"],
        ["note", "image_reused:"],
    ]
    assert heads[0] == "error text_empty (13): key 'question' is empty"
    assert f"\n  {world}/all.jsonl:1\n" in out
    assert f"{world}/all.jsonl:4\n" not in out
    assert "... and 10 more (--max_findings 0 shows all)" in out
    assert out.count("-> fill it in, or remove the row") == 1
    assert out.splitlines()[-1].startswith("15 errors, 1 warning, 1 note in 246 questions")
    told = json.loads((world / "found.json").read_text())
    assert (told["errors"], told["warnings"], told["notes"], len(told["findings"])) == (15, 1, 1, 17)
    assert set(told["findings"][0]) == {"kind", "severity", "where", "what", "remedy"}
    everything = check("-c", "my.yaml", *DATA, "--max_findings", "0")[1]
    assert f"{world}/all.jsonl:13\n" in everything


def test_configs_merge_as_the_verbs_merge_them(world, check):
    (world / "more.yaml").write_text(
        "data:\n  init_args:\n    only: open\n    corpus+:\n"
        "      - class_path: medrag_lightning.data.tables.JsonlCorpus\n        init_args: {path: gone.jsonl}\n"
    )
    code, out, _ = check("-c", "my.yaml", "-c", "more.yaml", *DATA)
    assert code == 1
    assert "error split_empty: the split train is empty" in out
    assert "more.yaml:5\n" in out
    assert "table_missing: JsonlCorpus: gone.jsonl: no such file" in out
    code, out, _ = check("-c", "my.yaml", *DATA, "--data.init_args.only", "open")
    assert "split_empty" in out
    code, out, _ = check("-c", "my.yaml", *DATA, "--data.max_pixels=100")
    assert "error image_oversized (21)\n" in out
    assert "the image has 16 x 16 pixels, more than 100" in out


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("path: ${MY_DATA}/all.jsonl", "pth: x", 5, "JsonlQueries has no setting 'pth'; did you mean 'path'?"),
        ("path: ${MY_DATA}/all.jsonl", "image_root: x", 5, "JsonlQueries needs the setting 'path'"),
        ("${MY_DATA}", "${NOT_SET}", 5, "the environment variable NOT_SET is not set"),
        ("JsonlQueries", "JsonlQuerys", 5, "did you mean medrag_lightning.data.tables.JsonlQueries?"),
        ("data.tables.JsonlQueries", "nowhere.Table", 5, "medrag_lightning.nowhere.Table cannot be imported"),
        ("data.tables.JsonlQueries", "records.Query", 5, "Query has no setting 'path'"),
        ("          path", "          split: nowhere\n          path", 5, "'split' is 'nowhere'; expected one of"),
    ],
)
def test_a_table_that_cannot_be_built_is_told_with_file_and_line(world, check, old, new, line, words):
    (world / "my.yaml").write_text(CONFIG.replace(old, new))
    code, out, _ = check("-c", "my.yaml", *DATA)
    assert code == 1
    assert words in out
    assert f"  my.yaml:{line}" in out
    assert "Traceback" not in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "dta"], "'dta' is no part; there are data, leaks"),
        (["--only"], "'' is no part|needs the name of a part"),
        (["--max_findings", "many"], "--max_findings must be a whole number"),
        (["-c", "nowhere"], "config file 'nowhere' not found"),
        (["nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["all.jsonl", "-c", "my.yaml"], "is a table, and -c names tables of its own"),
        (["-c", "recipes/jomed", "--only", "data"], "is a recipe"),
        (["-x"], "'-x' is not understood"),
        (["--json"], "--json needs a value"),
    ],
)
def test_wrong_usage_is_told_with_exit_code_2(world, check, words, said):
    code, _, err = check(*words)
    assert code == 2
    assert any(one in err for one in said.split("|"))


def test_a_bare_table_has_its_parser_guessed(world, check):
    code, out, err = check("all.jsonl", *DATA)
    assert code == 0
    assert "all.jsonl: read as JsonlQueries(path='all.jsonl'), because it has a column `question`" in err
    (world / "pairs.csv").write_text("id,text,image\n1,a report,train0.png\n2,another,gone.png\n")
    code, out, err = check("pairs.csv", *DATA)
    assert code == 1
    assert "JsonlCorpus" in err
    assert "pairs.csv:3" in out
    (world / "odd.csv").write_text("a,b\n1,2\n")
    code, _, err = check("odd.csv")
    assert code == 2
    assert "no parser is known for the columns a, b" in err


def test_settings_that_the_verbs_would_refuse(world, check):
    (world / "my.yaml").write_text(CONFIG + "trainer:\n  max_epoch: 3\n")
    code, out, _ = check("-c", "my.yaml", "--only", "config")
    assert code == 1
    assert "error setting_refused: trainer.max_epoch: unknown" in out
    assert "did you mean 'max_epochs'?" in out
    assert "  my.yaml:13" in out
    (world / "my.yaml").write_text(CONFIG)
    code, out, _ = check("-c", "my.yaml", "--only", "config")
    assert code == 1
    assert "missing, and without a default: source of MedragData\n  my.yaml:1" in out
    code, out, _ = check("-c", "data/minihospital", "-c", "my.yaml", "--only", "config")
    assert code == 0
    assert not (world / "runs").exists()


def test_the_other_parts_are_called_as_agreed(world, check, monkeypatch):
    def double(name, **functions):
        made = types.ModuleType(name)
        made.__spec__ = types.SimpleNamespace(name=name)
        vars(made).update(functions)
        monkeypatch.setitem(sys.modules, name, made)

    seen = {}

    def find_leaks(queries, corpus, facts):
        seen["leaks"] = (len(queries["train"]), len(corpus), len(facts))
        return [Finding("same_patient", "error", "split test", "12 patients", "split anew")]

    def pair_leaks(queries, pairs, facts):
        seen["pairs"] = (len(queries["train"]), len(pairs), len(facts))
        return []

    def machine_findings(runs_folder):
        seen["machine"] = runs_folder
        return [Finding("disk_small", "warning", "machine", "little disk", "free some")], [("cores", "2")]

    def plan_findings(arguments):
        seen["plan"] = arguments
        return [], [("steps", "12")]

    double("medrag_lightning.data.audit.leaks", find_leaks=find_leaks, pair_leaks=pair_leaks)
    double("medrag_lightning.cli.machine", machine_findings=machine_findings)
    double("medrag_lightning.cli.plan", plan_findings=plan_findings)
    code, out, _ = check("-c", "my.yaml", "--only", "leaks", "machine", "plan", "--trainer.max_epochs", "2")
    assert code == 1
    assert seen["leaks"] == (60, 60, 21)
    assert seen["pairs"] == (60, 0, 21)
    assert seen["machine"] == Path("runs")
    assert seen["plan"] == ["-c", "my.yaml", "--trainer.max_epochs", "2"]
    assert out.startswith("machine\n  cores  2\n\nplan\n  steps  12\n")
    assert out.splitlines()[-1].startswith("1 error, 1 warning, 0 notes")
    code, out, _ = check("-c", "my.yaml", "--only", "data,leaks", "--workers=0")
    assert "same_patient" in out
    code, out, _ = check("-c", "my.yaml")
    assert "not looked at: plan, because no config names a model" in out


def test_options():
    found = read_options(["-c", "a", "b.yaml", "--only", "plan", "data", "--trainer.max_epochs", "3", "--workers", "2"])
    assert (found.configs, found.parts, found.workers) == (("a", "b.yaml"), ("data", "plan"), 2)
    assert found.words == ["-c", "a", "-c", "b.yaml", "--trainer.max_epochs", "3"]
    assert read_options(["--only=data,leaks", "x.jsonl"]).tables == (Path("x.jsonl"),)


def test_what_is_known_of_images_is_kept_where_the_config_says(world, check):
    words = ("-c", "my.yaml", *DATA, "--data.init_args.cache_folder", "kept")
    check(*words, "--no_cache")
    assert not (world / "kept").exists()
    check(*words)
    (file,) = (world / "kept").iterdir()
    assert file.name.startswith("image_facts-")
