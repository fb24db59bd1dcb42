"""The verb `trace` on the mini-hospital with rules for a teacher: a command, its table, and the command again."""

import json
from functools import wraps
from pathlib import Path

import pytest
import yaml

from medrag_lightning.cli import main
from medrag_lightning.cli.recipe import read_recipe
from medrag_lightning.data.minihospital_teacher import MiniHospitalTeacher
from medrag_lightning.trace_files import read_traces

WORLD = "{class_path: medrag_lightning.data.minihospital.MiniHospital, init_args: {seed: 1, size: 96, texts: true}}"
DATA = f"""
data:
  class_path: medrag_lightning.data.module.MedragData
  init_args:
    tables: [{WORLD}]
    corpus: [{WORLD}]
    source: {{class_path: medrag_lightning.retrieval.lexical.LexicalSearch, init_args: {{top: 5}}}}
    max_train_queries: 24
    max_eval_queries: 16
"""
TEACHER = f"""
data:
  init_args:
    exploration:
      traces:
        teacher:
          class_path: medrag_lightning.data.minihospital_teacher.MiniHospitalTeacher
          init_args: {{hospital: {WORLD}, malformed_share: 0.2, failed_share: 0.2}}
        most_attempts: 1
        samples: 6
"""
COMMAND = ["trace", "-c", "data.yaml", "-c", "stages/trace", "-c", "teacher.yaml"]


@pytest.fixture
def ward(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {"data.yaml": DATA, "teacher.yaml": TEACHER}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_a_command_writes_traces_and_does_it_once(ward, capsys, monkeypatch):
    main(COMMAND)
    said = capsys.readouterr().out
    for part in (
        "gold-blind: ",
        "rearrange",
        "train: ",
        "of 24 questions have a trace",
        "without: the call failed in",
        "rethinking:",
    ):
        assert part in said
    told = json.loads(Path("runs/traces/statistics.json").read_text())
    rows = read_traces("runs/traces").rows
    assert {row.split for row in rows} == {"train", "val"}
    assert len(rows) == 40
    assert told["splits"]["train"]["traces"] == sum(row.trace is not None for row in rows if row.split == "train") > 12
    assert 0 < max(len(row.evidence_ids) for row in rows) <= 5
    page = Path("runs/traces/samples.html").read_text()
    assert page.count("<h2>") == len(Path("runs/traces/samples.jsonl").read_text().splitlines()) == 6
    assert "patient" not in page
    assert "synthetic-p0" not in page
    monkeypatch.setattr(MiniHospitalTeacher, "write", wraps(MiniHospitalTeacher.write)(lambda *_: pytest.fail("asked again")))
    main(COMMAND)
    again = capsys.readouterr().out
    assert "the teacher was not asked" in again
    assert again.replace("the teacher was not asked: all of its replies were known\n", "") == said


def test_gold_aware_traces_are_told_as_such_and_not_mixed(ward, capsys):
    aware = "--data.init_args.exploration.traces.gold=aware"
    main([*COMMAND, aware])
    assert "gold-aware: the teacher was told" in capsys.readouterr().out
    assert read_traces("runs/traces").manifest["gold_aware"] is True
    with pytest.raises(SystemExit) as ending:
        main(COMMAND)
    assert ending.value.code == 2
    assert "holds traces of another gold" in capsys.readouterr().err


def test_an_interruption_keeps_what_was_said(ward, capsys, monkeypatch):
    write, calls = MiniHospitalTeacher.write, []

    @wraps(write)  # the command line compares signatures with the protocol's
    def stopping(self, tasks):
        calls.append(len(tasks))
        if len(calls) > 3:
            raise KeyboardInterrupt
        return write(self, tasks)

    monkeypatch.setattr(MiniHospitalTeacher, "write", stopping)
    with pytest.raises(SystemExit) as ending:
        main(COMMAND)
    assert ending.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert len(list(Path("runs/traces/replies/rearrange").glob("*.arrow"))) == 3


def test_a_recipe_may_trace(ward):
    recipe = {"name": "mine", "variables": {}, "steps": [{"name": "trace", "verb": "trace", "configs": COMMAND[2::2]}]}
    Path("mine.yaml").write_text(yaml.safe_dump(recipe))
    assert [step.verb for step in read_recipe("mine.yaml").steps] == ["trace"]
    main(["run", "mine.yaml", "--dry_run"])


def test_the_shipped_teacher_without_its_weights_is_told_plainly(ward, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as ending:
        main(COMMAND[:5])
    assert ending.value.code == 2
    assert "Qwen/Qwen2.5-VL-7B-Instruct" in capsys.readouterr().err
    assert not Path("runs/traces").exists()


def test_settings_are_checked_when_they_are_read(ward, capsys):
    for setting, message in (("gold=some", "aware"), ("batch_size=0", "exploration.traces.batch_size must be at least 1")):
        with pytest.raises(SystemExit) as ending:
            main([*COMMAND, f"--data.init_args.exploration.traces.{setting}"])
        assert ending.value.code == 2
        assert message in capsys.readouterr().err
