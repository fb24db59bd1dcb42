"""The script that compares HeteroRAG over seeds, against predictions counted by hand; the recipe itself is not run."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from medrag_lightning.data.minihospital_texts import TEXT_PREFIX
from medrag_lightning.records import AnswerType, Query, Split
from medrag_lightning.search_files import SearchRow, write_searches

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"
CHOICES = ("yes", "no")
GOLD = {"q0": "yes", "q1": "no", "q2": "yes", "q3": "no"}
NEED = {"q0": "image", "q1": "image", "q2": "document", "q3": "document"}
TEXTS = {name: f"{TEXT_PREFIX}{name}" for name in ("q2", "q3")}
# right or wrong of each question, and which of those that a text answers are shown it
ASKED = {
    "test_before": ("1000", ""),
    "test_sft_bare": ("1000", ""),
    "test_sft": ("1100", "q3"),
    "test_question": ("1100", ""),
    "test": ("1110", "q2 q3"),
}
COMPARED = {
    "test_factmm": ("1001", ""),
    "test_mmed": ("1001", ""),
    "test_rule": ("0001", ""),
    "test_clip": ("1100", "q2"),
    "test_search_sft": ("1110", "q2"),
    "test_search_dpo_alone": ("1100", "q2"),
}
EMPTY = {"q0": (), "q1": (("wiki", "a sign"),), "q2": (("wiki", "a sign"), ("book", " ")), "q3": None}


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    spec = importlib.util.spec_from_file_location("bench_heterorag", BENCH / "heterorag.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_heterorag", module)
    spec.loader.exec_module(module)
    queries = {}
    for name, gold in GOLD.items():
        relevant = (TEXTS[name], "a report") if name in TEXTS else ("a report",)
        queries[name] = Query(name, "?", None, gold, CHOICES, AnswerType.CLOSED, need=NEED[name], relevant_ids=relevant)
    monkeypatch.setattr(module, "test_queries", lambda config: queries)
    return module


def write(place: Path, marks: str, shown: str) -> None:
    def row(name: str, right: str, **more):
        gold = GOLD[name]
        cited = ["a report", *([TEXTS[name]] if name in shown.split() else [])]
        told = {"query_id": name, "regime": "retrieved", "system": "", "choices": CHOICES, "gold": gold, "noise": None}
        told |= {"variant": None, "correct": right == "1", "answer": gold if right == "1" else CHOICES[gold == "yes"]}
        told |= {"logp_nats": [-0.1, -2.3], "cited": cited, "dropped": []}
        return told | {"channels": ["image_to_image", "lexical"][: len(cited)]} | more

    rows = [row(name, right) for name, right in zip(GOLD, marks, strict=True)]
    rows += [row(name, "0", regime="none") for name in GOLD]
    rows += [row(name, right, variant="other_image") for name, right in zip(GOLD, "1000", strict=True)]
    if place.name == "test":
        rows += [row(name, right, system="without wiki") for name, right in zip(GOLD, "1100", strict=True)]
        rows += [row("q0", "0", noise={"kind": "irrelevant", "share": 0.5}), row("q0", "0", system="majority")]
    (place / "predictions").mkdir(parents=True)
    (place / "predictions" / "test.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    metric = {"closed_accuracy": {"value": 0.5}}
    (place / "results.json").write_text(json.dumps({"rows": [{"system": "majority", "need": None, "metrics": metric}]}))


def write_run(place: Path, steps: dict[str, tuple[str, str]]) -> None:
    for step, (marks, shown) in steps.items():
        write(place / step, marks, shown)
    rows = [SearchRow(name, Split.TEST, searches) for name, searches in EMPTY.items()]
    write_searches(place / "searches", rows, {"corpora": ["wiki", "book"]})


def test_counts_by_hand(bench, tmp_path, capsys):
    write_run(tmp_path / "data-seed0", ASKED)
    told = bench.report("data", [0], tmp_path)
    assert told["systems"]["HeteroRAG"]["accuracy"][0] == 3 / 4
    assert list(told["systems"]) == ["Original", "SFT without knowledge", "SFT with knowledge", "HeteroRAG"]
    assert told["reliance"]["HeteroRAG"]["MD"][0] == 1 / 3  # q0, of three that are right
    assert told["reliance"]["HeteroRAG"]["KUD"][0] == 1 / 4  # all are wrong without evidence, q3 stays wrong
    assert told["differences"]["HeteroRAG - Original"]["accuracy"][0] == 1 / 2
    assert list(told["parts"]) == ["all evidence", "without wiki"]
    assert told["parts"]["without wiki"]["minus_whole"][0] == -1 / 4
    found = told["searches"]["SFT + DPO"]
    assert found["hit@2"]["all"]["above"][0] == found["hit@2"]["document"]["value"][0] == 1.0
    assert "image" not in found["hit@2"], "the report that answers these questions is no text"
    assert found["accuracy"]["above"][0] == 1 / 4
    printed = capsys.readouterr().out
    assert "| floor: majority | 0.500 |" in printed
    assert "hit@2, all (2)" in printed


def test_source_selection_by_need(bench, tmp_path):
    write_run(tmp_path / "data-seed0", ASKED)
    told = bench.report("data", [0], tmp_path)["selection"]
    assert told["image"]["empty_tags"][0] == 3 / 4  # nothing is asked, then wiki alone
    assert told["document"]["empty_tags"][0] == 1 / 4  # blank words ask nothing; what could not be read asks everything
    assert (told["document"]["texts"][0], told["document"]["texts_of_question"][0]) == (1.0, 0.0)
    assert told["image"]["accuracy"]["above"][0] == 0.0


def test_baselines_stand_in_the_tables_where_they_were_run(bench, tmp_path):
    write_run(tmp_path / "data-seed0", ASKED | COMPARED)
    write_run(tmp_path / "data-seed1", ASKED | COMPARED | {"test_rule": ("1101", "")})
    told = bench.report("data", [0, 1], tmp_path)
    assert told["systems"]["RULE-style"]["accuracy"][0] == 1 / 2  # the mean of 1/4 and 3/4
    assert list(told["searches"]) == ["question", "CLIP, fused", "DPO without SFT", "SFT", "SFT + DPO"]
    hits = [row["hit@2"]["all"]["value"][0] for row in told["searches"].values()]
    assert hits == [0.0, 0.5, 0.5, 0.5, 1.0]


def test_compared_runs_the_longer_recipe_in_the_same_folder(bench, monkeypatch):
    started = []
    monkeypatch.setattr(sys.modules["over_seeds"], "launch", lambda command, place: started.append((command[1], place)) or 1.0)
    for more in ([], ["--compared"]):
        bench.main(["--data", "minihospital_five", "--seeds", "4", *more, "--only_run"])
    place = Path("runs/heterorag/minihospital_five-seed4")
    assert started == [("heterorag", place), ("heterorag_compared", place)]
