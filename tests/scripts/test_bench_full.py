"""The script that compares everything on with single systems, against predictions counted by hand; no recipe is run."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from medrag_lightning.records import AnswerType, Query

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"
CHOICES = ("yes", "no")
GOLD = {"q0": "yes", "q1": "no", "q2": "yes", "q3": "no"}


@pytest.fixture
def full(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    spec = importlib.util.spec_from_file_location("bench_full", BENCH / "full.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    queries = {name: Query(name, "?", None, gold, CHOICES, AnswerType.CLOSED) for name, gold in GOLD.items()}
    monkeypatch.setattr(module, "test_queries", lambda config: queries)
    return module


def write(place: Path, answered: dict[tuple[str, str], str]) -> None:
    """`answered`: 1 or 0 of each question, ``-`` where it was not asked, by system and regime."""
    (place / "predictions").mkdir(parents=True)
    rows = []
    for (system, regime), marks in answered.items():
        for (name, gold), right in zip(GOLD.items(), marks, strict=True):
            if right != "-":
                answer = gold if right == "1" else CHOICES[gold == "yes"]
                row = {"query_id": name, "regime": regime, "system": system, "choices": CHOICES, "gold": gold, "answer": answer}
                rows.append(row | {"correct": right == "1", "noise": None, "variant": None})
    spoilt = {**rows[0], "noise": {"kind": "irrelevant", "share": 0.5}, "correct": rows[0]["correct"] is False}
    (place / "predictions" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, spoilt]))
    metric = {"closed_accuracy": {"value": 0.5}}
    (place / "results.json").write_text(json.dumps({"rows": [{"system": "majority", "need": None, "metrics": metric}]}))


def write_runs(folder: Path) -> None:
    for seed in (0, 1):
        mine = {("", "retrieved"): "1110", ("not steered", "retrieved"): "1100", ("", "none"): "1000", ("", "oracle"): "1111"}
        write(folder / "full" / f"d-seed{seed}" / "test", mine)
        write(folder / "jomed" / f"d-seed{seed}" / "test", {("", "retrieved"): "0100" if seed else "0110"})
        write(folder / "mrrag" / f"d-seed{seed}" / "test", {("", "retrieved"): "1111", ("mcr", "retrieved"): "110-"})
        write(folder / "hkpt" / f"d-seed{seed}" / "test", {("", "retrieved"): "0000"})


def test_systems_are_compared_on_the_questions_that_all_answered(full, tmp_path, capsys):
    write_runs(tmp_path)
    told = full.report("d", [0, 1], tmp_path, ["full", "jomed", "mrrag", "hkpt"])
    accuracy = {name: round(one["accuracy"][0], 4) for name, one in told["systems"].items()}
    assert accuracy.pop("full, not steered") == 0.6667
    assert accuracy == {"full": 1, "jomed": 0.5, "mrrag": 0.6667, "hkpt": 0, "no retrieval": 0.3333, "known evidence": 1}
    assert told["questions"] == 3
    assert told["best_single"] == "mrrag"
    assert told["differences"]["mrrag"][0] == pytest.approx(1 / 3)
    assert told["floors"] == {"majority": 0.5}
    printed = capsys.readouterr().out
    assert "1 of full, 1 of full, not steered" in printed
    assert "| mrrag (best single) | +0.333" in printed


def test_what_no_system_shares_is_refused(full, tmp_path):
    write_runs(tmp_path)
    write(tmp_path / "hkpt" / "e-seed0" / "test", {("", "retrieved"): "---1", ("x", "retrieved"): "1111"})
    for recipe in ("full", "jomed", "mrrag"):
        (tmp_path / recipe / "e-seed0").symlink_to(tmp_path / recipe / "d-seed0")
    with pytest.raises(SystemExit, match="no closed test question was answered by all of"):
        full.report("e", [0], tmp_path, ["full", "jomed", "mrrag", "hkpt"])


def test_recipes_get_the_options_that_they_have(full, capsys):
    more = ["--reader", "readers/tiny", "--tuned", "readers/tiny_tuned", "--set", "tune.trainer.max_steps=3"]
    assert full.taken("mrrag", more) == ["--reader", "readers/tiny"]
    assert full.taken("full", more) == more
    assert "mrrag: has no --tuned; left out" in capsys.readouterr().out
