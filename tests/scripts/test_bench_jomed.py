"""The script that says what distillation brought, against predictions counted by hand; the recipe itself is not run."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from medrag_lightning.records import AnswerType, Query

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"
CHOICES = ("yes", "no")
# gold; then the answers of no retrieval, contrastive, both heads and known evidence; then contrastive's candidates
TABLE = {
    "q0": ("yes", "no", "no", "yes", "yes", ["yes", "no"]),
    "q1": ("yes", "no", "no", "yes", "yes", ["yes", "no"]),
    "q2": ("no", "no", "no", "no", "no", ["no", "no"]),
    "q3": ("no", "yes", "yes", "yes", "no", ["yes", "yes"]),
}
SYSTEMS = [("none", ""), ("retrieved", "contrastive"), ("retrieved", ""), ("oracle", "")]


@pytest.fixture
def jomed(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    spec = importlib.util.spec_from_file_location("bench_jomed", BENCH / "jomed.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    queries = {name: Query(name, "?", None, row[0], CHOICES, AnswerType.CLOSED) for name, row in TABLE.items()}
    monkeypatch.setattr(module, "test_queries", lambda config: queries)
    return module


def write(place: Path) -> None:
    (place / "predictions").mkdir(parents=True)
    rows = []
    for name, (gold, *answers, shown) in TABLE.items():
        told = [*zip(SYSTEMS, answers, strict=True), (("retrieved", "text head"), gold), (("retrieved", "image head"), "no")]
        for (regime, system), answer in told:
            row = {"query_id": name, "regime": regime, "system": system, "choices": CHOICES, "gold": gold, "answer": answer}
            rows.append({**row, "correct": answer == gold, "candidate_answers": shown if system == "contrastive" else [answer]})
    (place / "predictions" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metric = {"closed_accuracy": {"value": 0.5}}
    (place / "results.json").write_text(json.dumps({"rows": [{"system": "majority", "need": None, "metrics": metric}]}))


def test_counts_by_hand(jomed, tmp_path, capsys):
    for seed in (0, 1):
        write(tmp_path / f"toy-seed{seed}" / "test")
    told = jomed.report("toy", [0, 1], tmp_path)
    assert told["inconsistent_share"] == [0.5, 0.5]
    assert told["contrastive"]["all"][0] == pytest.approx(0.25)
    assert told["both heads"]["all"][0] == pytest.approx(0.75)
    assert told["both heads"]["inconsistent"][0] == 1
    assert told["gains"]["both heads - contrastive"]["inconsistent"][0] == 1
    assert told["gains"]["both heads - contrastive"]["consistent"][0] == 0
    assert told["gap_closed"]["both heads closes"][0] == pytest.approx(2 / 3)
    assert told["gap_closed"]["gap"][0] == pytest.approx(0.75)
    printed = capsys.readouterr().out
    assert "| floor: majority | 0.500 |" in printed
    assert "both heads minus contrastive" in printed
