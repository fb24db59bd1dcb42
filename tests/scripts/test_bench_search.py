"""The search benchmark runs, its exact index finds everything, and its last line is JSON."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "scripts" / "bench" / "search.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_search", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_searches_are_compared(bench, tmp_path, monkeypatch, capsys):
    (tmp_path / "text").mkdir()
    words = ["lung", "heart", "nodule", "effusion", "cyst", "edema", "mass", "opacity"]
    rows = [{"text": f"{words[n % 8]} {words[n // 8 % 8]} number {n}", "title": words[n % 8]} for n in range(400)]
    (tmp_path / "text" / "some.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    monkeypatch.setenv("MEDRAG_DATA", str(tmp_path))
    small = ["--k", "3", "--batches", "8", "20", "--dims", "32", "--synthetic", "900", "--rounds", "1"]
    bench.main(small)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["recall_flat"] == report["synthetic_32_20"]["recall_flat"] == 1.0
    assert report["recall_fast"] >= 0.99
    assert {"real_tiny_32_8", "real_lsa_32_20", "ratio_flat", "ratio_fast"} <= set(report)
    monkeypatch.delenv("MEDRAG_DATA")
    bench.main(small)
    assert "real_tiny_32_8" not in json.loads(capsys.readouterr().out.splitlines()[-1])
