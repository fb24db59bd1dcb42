"""The verb `explore` on the mini-hospital's texts, with rules for an expert: a command, its tables, and the command again."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from medrag_lightning.cli import main
from medrag_lightning.cli.recipe import read_recipe
from medrag_lightning.preference_files import read_preferences
from medrag_lightning.search_files import read_searches

DATA = """
data:
  class_path: medrag_lightning.data.module.MedragData
  init_args:
    tables: &world
      - class_path: medrag_lightning.data.minihospital.MiniHospital
        init_args: {seed: 1, reports: full, texts: true}
    corpus: *world
    source:
      class_path: medrag_lightning.retrieval.corpus_search.CorpusSearch
      init_args:
        parts:
          wiki: {class_path: medrag_lightning.retrieval.lexical.LexicalSearch, init_args: {top: 2, corpus: wiki}}
          guideline: {class_path: medrag_lightning.retrieval.lexical.LexicalSearch, init_args: {top: 2, corpus: guideline}}
        of: {wiki: ["minihospital encyclopaedia (synthetic)"], guideline: ["minihospital guidelines (synthetic)"]}
    max_train_queries: 24
    max_eval_queries: 32
"""
EXPERT = '''
from __future__ import annotations

from collections.abc import Sequence

from medrag_lightning.interfaces import ExploreTask, JudgeTask
from medrag_lightning.records import format_searches


class Rules:
    """Asks with the question and without its end; judges by the known documents; appends a line to a file for each call."""

    def __init__(self, log: str = "calls.txt") -> None:
        self.log = log

    def _called(self, what, count):
        with open(self.log, "a", encoding="utf-8") as stream:
            stream.write(f"{what} {count}\\n")

    def explore(self, tasks: Sequence[ExploreTask]) -> list[str]:
        self._called("explore", len(tasks))
        said = [task.query.question.split("?")[0].strip() for task in tasks]
        return [format_searches({name: [one, one.split(" , ")[0] + " risk"] for name in task.corpora}, list(task.corpora))
                for task, one in zip(tasks, said, strict=True)]

    def judge(self, tasks: Sequence[JudgeTask]) -> list[str]:
        self._called("judge", len(tasks))
        known = [({d.id for d in task.documents} & set(task.query.relevant_ids)) for task in tasks]
        return ["there it stands: yes" if one else "nothing of it: no" for one in known]

    def fingerprint(self) -> str:
        return "f" * 64
'''
SETTING = "data: {init_args: {exploration: {expert: {class_path: exploring_rules.Rules, init_args: {}}}}}"
COMMAND = ["explore", "-c", "data.yaml", "-c", "stages/explore", "-c", "expert.yaml"]


@pytest.fixture
def ward(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in {"data.yaml": DATA, "expert.yaml": SETTING, "exploring_rules.py": EXPERT}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    yield tmp_path
    sys.modules.pop("exploring_rules", None)


def test_a_command_makes_what_a_generator_learns_and_does_it_once(ward, capsys):
    main(COMMAND)
    said = capsys.readouterr().out
    for part in ("train: 24 of 24 questions explored", "val: 32 of 32", "wiki", "guideline", "kappa", "targets: ", "pairs: "):
        assert part in said
    told = json.loads(Path("runs/exploration/statistics.json").read_text())
    rows = read_searches("runs/exploration/targets").rows
    assert {row.split for row in rows} == {"train", "val"}
    assert told["splits"]["train"]["targets"]["texts"] == sum(row.split == "train" for row in rows) > 0
    assert sum(map(len, read_preferences("runs/exploration/pairs").pairs.values())) > 0
    assert told["agreement"]["accuracy"]["value"] == 1.0
    calls = Path("calls.txt").read_text()
    main(COMMAND)
    again = capsys.readouterr().out
    assert "the expert was not asked" in again
    assert Path("calls.txt").read_text() == calls
    page = Path("runs/exploration/samples.html").read_text()
    assert page.count("<h2>") == len(Path("runs/exploration/samples.jsonl").read_text().splitlines()) == 20
    assert "patient" not in page


def test_an_interruption_keeps_what_was_said(ward, capsys):
    text = EXPERT.replace('        self._called("judge"', '        raise KeyboardInterrupt\n        self._called("judge"')
    Path("exploring_rules.py").write_text(text)
    with pytest.raises(SystemExit) as ending:
        main(COMMAND)
    assert ending.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert list(Path("runs/exploration/replies/explore").glob("*.arrow"))


def test_a_recipe_may_explore(ward):
    recipe = {"name": "mine", "variables": {}, "steps": [{"name": "explore", "verb": "explore", "configs": COMMAND[2::2]}]}
    Path("mine.yaml").write_text(yaml.safe_dump(recipe))
    assert [step.verb for step in read_recipe("mine.yaml").steps] == ["explore"]
    main(["run", "mine.yaml", "--dry_run"])


def test_the_shipped_expert_without_its_weights_is_told_plainly(ward, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as ending:
        main(COMMAND[:5])
    assert ending.value.code == 2
    assert "Qwen/Qwen2.5-VL-7B-Instruct" in capsys.readouterr().err
    assert not Path("runs/exploration").exists()


def test_settings_are_checked_when_they_are_read(ward, capsys):
    for setting, message in (("pairs=some", "one_corpus"), ("top=0", "exploration.top must be at least 1")):
        with pytest.raises(SystemExit) as ending:
            main([*COMMAND, f"--data.init_args.exploration.{setting}"])
        assert ending.value.code == 2
        assert message in capsys.readouterr().err
