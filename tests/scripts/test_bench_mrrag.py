"""The script that prints MR-RAG's ablation, against predictions counted by hand; the recipe itself is not run."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from medrag_lightning.records import AnswerType, Query

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"
CHOICES = ("yes", "no")
GOLD = {"q0": "yes", "q1": "no", "q2": "yes", "q3": "no"}
# right or wrong of each question: ordinary evidence, then half of it irrelevant
ANSWERED = {
    ("retrieved", ""): ("1111", "0001"),
    ("retrieved", "mcr"): ("1111", "1110"),
    ("retrieved", "mcr + paper"): ("1110", "1110"),
    ("retrieved", "image to text"): ("1000", None),
    ("none", ""): ("1010", None),
}


@pytest.fixture
def mrrag(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    spec = importlib.util.spec_from_file_location("bench_mrrag", BENCH / "mrrag.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    right = {"q0": ("d0",), "q1": ("d0", "d2")}
    queries = {
        name: Query(name, "?", None, gold, CHOICES, AnswerType.CLOSED, relevant_ids=right.get(name, ()))
        for name, gold in GOLD.items()
    }
    monkeypatch.setattr(module, "test_queries", lambda config: queries)
    return module


def write(place: Path) -> None:
    (place / "test" / "predictions").mkdir(parents=True)
    rows = []
    for (regime, system), (plain, spoilt) in ANSWERED.items():
        for answered, noise in ((plain, None), (spoilt, {"kind": "irrelevant", "share": 0.5})):
            for (name, gold), right in zip(GOLD.items(), answered or "", strict=False):
                answer = gold if right == "1" else CHOICES[gold == "yes"]
                row = {"query_id": name, "regime": regime, "system": system, "choices": CHOICES, "gold": gold, "noise": noise}
                row["cited"] = ["d0", "d2"] if system == "mcr" else ["d1", "d2"]
                rows.append({**row, "answer": answer, "correct": right == "1"})
    rows.append({**rows[0], "regime": "retrieved", "choices": (), "query_id": "open"})
    (place / "test" / "predictions" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metric = {"closed_accuracy": {"value": 0.5}}
    rows = [{"system": "majority", "need": None, "metrics": metric}]
    (place / "test" / "results.json").write_text(json.dumps({"rows": rows}))
    (place / "published" / "checkpoints").mkdir(parents=True)
    weights = {"shared": {"direction": {"image_to_text": 0.6, "text_to_text": 0.8}, "norm": 3.0}}
    (place / "published" / "checkpoints" / "fusion_weights.json").write_text(json.dumps(weights))


def test_counts_by_hand(mrrag, tmp_path, capsys):
    for seed in (0, 1):
        write(tmp_path / f"toy-seed{seed}")
    told = mrrag.report("toy", [0, 1], tmp_path)
    assert told["systems"]["direct concatenation"]["accuracy"][0] == 1
    assert told["systems"]["no retrieval"]["accuracy"][0] == 0.5
    assert told["differences"]["mcr - image to text"][0] == 0.75
    assert told["differences"]["mcr + paper - mcr"][0] == -0.25
    relevance = told["relevance"]
    assert relevance["questions"] == 2
    first, _, share, _ = relevance["mcr"]
    assert first[0] == 1
    assert share[0] == 0.75
    assert relevance["direct concatenation"][3][0] == 0.75 - 0.25
    irrelevant = told["noise"]["irrelevant"]
    assert irrelevant["direct concatenation"]["loss"][0] == 0.75
    assert irrelevant["mcr"]["share"][0] == pytest.approx(1 / 3)
    assert irrelevant["mcr"]["beyond_half"][0] == pytest.approx(0.25 - 0.375)
    assert irrelevant["mcr + paper"]["loss"][0] == 0
    assert told["weights"] == [{"image_to_text": 0.6, "text_to_text": 0.8}] * 2
    printed = capsys.readouterr().out
    assert "| floor: majority | 0.500 | |" in printed
    assert "Published weights by seed: image_to_text 0.60, text_to_text 0.80" in printed
