"""The text benchmarks run on small corpora, tell what they should, and fit nothing on what they measure."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("bm25s", reason="the extra `text` is not installed")
BENCH = Path(__file__).parents[2] / "scripts" / "bench"


def load(name, monkeypatch):
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, f"bench_{name}", module)
    spec.loader.exec_module(module)
    return module


def write(root):
    """Sixty texts of one rare word each; questions ask for the word, or for one that two equal texts have."""
    (root / "text").mkdir()
    common = {"license": "CC0", "title": "t"}
    texts = [{"id": f"p{n}", "corpus": "pubmed", "text": f"the lung study of rare{n} and common", **common} for n in range(30)]
    health = [
        {
            "id": f"m{n}",
            "corpus": "medquad",
            "text": f"rare{n % 29} heart",
            "question": f"What is rare{n % 29} heart?",
            **common,
        }
        for n in range(30)
    ]
    health = [row | {"title": f"entity {n // 2}"} for n, row in enumerate(health)]
    asked = [{"id": f"a{n}", "question": f"Is rare{n} in the lung?", "gold_doc": f"p{n}"} for n in range(30)]
    files = {
        "pubmed": texts,
        "medquad": health,
        "pubmedqa_qa": asked,
        "textbook": [],
        "disease_ontology": [],
        "radiology_captions": [],
    }
    for name, rows in files.items():
        (root / "text" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_text_retrieval(tmp_path, monkeypatch, capsys):
    bench = load("text_retrieval", monkeypatch)
    write(tmp_path)
    monkeypatch.setenv("MEDRAG_DATA", str(tmp_path))
    monkeypatch.setattr(bench, "DEPTH", 12)
    bench.main(["--stemmer", "none", "--dim", "32"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["pubmedqa"]["questions"] == told["medquad"]["questions"] == 30
    assert told["pubmedqa"]["bm25"]["R@1"][0] == 1.0
    assert told["medquad"]["bm25"]["R@1"][0] == 1.0  # m0 and m29 say the same: either is right
    assert told["pubmedqa"]["tfidf"]["R@1_gain"] == [0.0, 0.0, 0.0]
    assert {"index_seconds_bm25", "query_ms_hybrid_reranked", "beats_floor"} <= set(told)


def test_groups_stay_in_one_fold_and_equal_texts_are_right(tmp_path, monkeypatch):
    bench = load("text_retrieval", monkeypatch)
    write(tmp_path)
    documents, questions = bench.read(tmp_path, False, None)
    assert len(documents) == 60
    assert {one.fold for one in questions if one.name == "medquad"} == set(range(5))
    assert len({(one.group, one.fold) for one in questions if one.name == "medquad"}) == 15
    assert next(one.right for one in questions if one.query.id == "q-m0") == {"m0", "m29"}
    assert bench.read(tmp_path, True, 10)[0][0].text.startswith("entity 0: ")
    assert len(bench.read(tmp_path, True, 10)[1]) == 20
    told = bench.values_of(np.array([1, 5, 0, 11]))
    assert told["R@5"].tolist() == [1, 1, 0, 0]
    assert told["MRR"].tolist() == [1, 0.2, 0, 1 / 11]


def test_a_large_corpus_in_bounded_memory(tmp_path, monkeypatch, capsys):
    bench = load("million", monkeypatch)
    told = bench.built("lexical", 300, tmp_path) | bench.asked("lexical", 300, tmp_path)
    assert told["found"] == 1.0
    assert told["query_ms_median"] > 0
    some = bench.Generated(50)
    assert some[7] == bench.Generated(90)[7] != some[8]
    assert len(list(some)) == len({document.text for document in some}) == 50
    with pytest.raises(IndexError):
        some[50]
    monkeypatch.setattr(bench, "child", lambda step, kind, count, folder: {f"{step}_peak_mib": 4000.0})
    bench.main(["--count", "10"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["bounded"] is False
