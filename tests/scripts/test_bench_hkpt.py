"""The script that compares preference tuning over seeds, against predictions counted by hand; the recipe itself is not run."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from medrag_lightning.preference_files import pair_id, write_preferences
from medrag_lightning.records import AnswerType, Condition, Knowledge, PairKind, Preference, PreferenceSide, Query, Split

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"
CHOICES = ("yes", "no")
GOLD = {"q0": "yes", "q1": "no", "q2": "yes", "q3": "no"}
# right or wrong of each question, by how it is asked; "-" where it is not
BEFORE = {
    "own": "1100",
    "none": "1010",
    "other_image": "1000",
    "without_reports": "110-",
    "without_documents": "0100",
    "irrelevant": "1000",
}
TUNED = BEFORE | {"own": "1110", "other_image": "0100", "irrelevant": "1110", "without_documents": "1100"}


@pytest.fixture
def hkpt(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    spec = importlib.util.spec_from_file_location("bench_hkpt", BENCH / "hkpt.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    queries = {name: Query(name, "?", None, gold, CHOICES, AnswerType.CLOSED) for name, gold in GOLD.items()}
    monkeypatch.setattr(module, "test_queries", lambda config: queries)
    return module


def write(place: Path, answered: dict[str, str]) -> None:
    (place / "predictions").mkdir(parents=True)
    rows = []
    for how, marks in answered.items():
        noise = {"kind": how, "share": 0.5} if how == "irrelevant" else None
        variant = how if how.startswith(("other", "without")) else None
        for (name, gold), right in zip(GOLD.items(), marks, strict=True):
            if right != "-":
                answer = gold if right == "1" else CHOICES[gold == "yes"]
                row = {"query_id": name, "regime": "none" if how == "none" else "retrieved", "system": "", "choices": CHOICES}
                row |= {"gold": gold, "noise": noise, "variant": variant, "answer": answer, "correct": right == "1"}
                rows.append(row | {"logp_nats": [-0.1, -2.3]})
    text = "".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "system": "rival", "correct": False}])
    (place / "predictions" / "test.jsonl").write_text(text)
    metric = {"closed_accuracy": {"value": 0.5}}
    (place / "results.json").write_text(json.dumps({"rows": [{"system": "majority", "need": None, "metrics": metric}]}))


def write_run(place: Path, hkpt) -> None:
    for name, step in hkpt.STEPS.items():
        write(place / step, BEFORE if name in ("before tuning", "SFT") else TUNED)
    right, wrong = PreferenceSide(Condition(), "yes"), PreferenceSide(Condition(), "no")
    kind, about = PairKind.ROBUSTNESS, Knowledge.BOTH
    name = pair_id("q9", kind, about, [(right.condition, "yes"), (wrong.condition, "no")])
    pair = Preference(name, "q9", kind, about, right, wrong)
    for step in hkpt.PAIRS.values():
        write_preferences(place / step / "pairs", {Split.TRAIN: [pair]}, {"scores": "x"}, {})


def test_counts_by_hand(hkpt, tmp_path, capsys):
    write_run(tmp_path / "data-seed0", hkpt)
    told = hkpt.report("data", [0], tmp_path)
    before, tuned = told["reliance"]["before tuning"], told["reliance"]["HKPT v2"]
    assert told["systems"]["before tuning"]["accuracy"][0] == 0.5
    assert (before["MD"][0], tuned["MD"][0]) == (1 / 2, 1 / 3)  # right with another image too, of those right with their own
    assert (before["KUD"][0], tuned["KUD"][0]) == (1 / 2, 1 / 2)  # q1 and q3 are wrong without evidence, q3 stays wrong
    assert (before["KID"][0], tuned["KID"][0]) == (1.0, 1 / 2)  # q0 wrong with reports alone, q2 with everything; then q2 alone
    assert (before["over-reliance"][0], tuned["over-reliance"][0]) == (1 / 2, 0.0)
    assert (before["irrelevant"][0], tuned["irrelevant"][0]) == (1 / 4, 0.0)
    assert before["contradicting"] is None
    assert told["differences"]["HKPT v2 - SFT"]["accuracy"][0] == 0.25
    assert told["pairs"]["KB-PT"] == [{"knowledge_robustness": 1}]
    printed = capsys.readouterr().out
    assert "| floor: majority | 0.500 |" in printed
    assert "not computed" in printed
