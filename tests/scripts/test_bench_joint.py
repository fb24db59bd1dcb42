"""The script about joint training over seeds, against predictions counted by hand; the recipe itself is not run."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from medrag_lightning.records import AnswerType, Query

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"
CHOICES = ("yes", "no")
GOLD = {"q0": "yes", "q1": "no", "q2": "yes", "q3": "no"}
ANSWERED = {
    "no retrieval": "0000",
    "contrastive": "1000",
    "distilled": "1100",
    "reader alone": "1010",
    "joint": "1110",
    "joint, old search": "1100",
    "known evidence": "1-11",
}


@pytest.fixture
def joint(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    spec = importlib.util.spec_from_file_location("bench_joint", BENCH / "joint.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    queries = {name: Query(name, "?", None, gold, CHOICES, AnswerType.CLOSED) for name, gold in GOLD.items()}
    monkeypatch.setattr(module, "test_queries", lambda config: queries)
    return module


def write_run(place: Path, systems) -> None:
    rows: dict[str, list] = {}
    for name, marks in ANSWERED.items():
        step, regime, system = systems[name]
        for (query, gold), mark in zip(GOLD.items(), marks, strict=True):
            if mark != "-":
                wrong = CHOICES[gold == "yes"]
                answer = gold if mark == "1" else wrong
                row = {"query_id": query, "regime": regime, "system": system, "choices": CHOICES, "gold": gold}
                row["answer"] = answer
                said = [answer, gold] if query == "q3" else [answer]
                rows.setdefault(step, []).append({**row, "correct": mark == "1", "candidate_answers": said})
    metric = {"closed_accuracy": {"value": 0.5}}
    for step, mine in rows.items():
        (place / step / "predictions").mkdir(parents=True)
        (place / step / "predictions" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mine))
        results = {"rows": [{"system": "majority", "need": None, "metrics": metric}]}
        (place / step / "results.json").write_text(json.dumps(results))


def test_arms_are_compared_on_one_set_of_questions(joint, tmp_path, capsys):
    for seed in (0, 1):
        write_run(tmp_path / f"d-seed{seed}", joint.SYSTEMS)
    told = joint.report("d", [0, 1], tmp_path)
    assert told["questions"] == 4
    shares = {name: told[name][0][0] for name in ANSWERED}
    assert shares == {
        "no retrieval": 0, "contrastive": 0.25, "distilled": 0.5, "reader alone": 0.5, "joint": 0.75, "joint, old search": 0.5,
        "known evidence": 1,
    }  # fmt: skip
    assert told["oracle of joint"][0] == 1
    assert told["oracle of distilled"][0] == 0.75
    assert {name: value[0] for name, value in told["differences"].items()} == {
        "joint - contrastive": 0.5, "joint - distilled": 0.25, "joint - reader alone": 0.25, "joint - joint, old search": 0.25,
    }  # fmt: skip
    assert "known evidence (on 3 of them)" in capsys.readouterr().out
