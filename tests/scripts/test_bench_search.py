"""The search benchmark runs, its exact index finds everything, and its last line is JSON."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
    (tmp_path / "some" / "images").mkdir(parents=True)
    for number in range(24):
        Image.new("L", (9, 8), number * 10).save(tmp_path / "some" / "images" / f"{number:02}.png")
    monkeypatch.setenv("MEDRAG_DATA", str(tmp_path))
    monkeypatch.setattr(bench.tempfile, "gettempdir", lambda: str(tmp_path))
    small = ["--k", "3", "--batches", "8", "20", "--dims", "32", "--synthetic", "900", "--rounds", "1"]
    bench.main(small)
    lines = capsys.readouterr().out.splitlines()
    report = json.loads(lines[-1])
    assert report["recall_flat"] == report["synthetic_32_20"]["recall_flat"] == 1.0
    assert report["recall_fast"] >= 0.99
    assert {"text_32_8", "image_32_20", "ratio_flat", "ratio_fast", "ratio_flat_tuned", "ratio_fast_tuned"} <= set(report)
    assert sum("vectors made" in line for line in lines) == 2


def test_without_data_only_synthetic_vectors(bench, monkeypatch, capsys):
    monkeypatch.delenv("MEDRAG_DATA", raising=False)
    bench.main(["--k", "3", "--batches", "8", "--dims", "32", "--synthetic", "900", "--rounds", "1"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["recall_flat"] == 1.0
    assert "text_32_8" not in report
    with pytest.raises(SystemExit):
        bench.main([])
    assert "MEDRAG_DATA" in capsys.readouterr().err


def test_vectors_are_made_once(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench.tempfile, "gettempdir", lambda: str(tmp_path))
    first = bench.cached(lambda: np.ones((2, 3), np.float32), "some", ["texts"])
    again = bench.cached(lambda: pytest.fail("made again"), "some", ["texts"])
    np.testing.assert_array_equal(first, again)
    assert len(bench.cached(lambda: np.ones((5, 3), np.float32), "other", ["texts"])) == 5
