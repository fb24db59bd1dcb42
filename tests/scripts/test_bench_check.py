"""The benchmark of `check` finds what it planted, and its last line is JSON."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

PATH = Path(__file__).parents[2] / "scripts" / "bench" / "check.py"


def test_planted_faults_are_found(monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("bench_check", PATH)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    monkeypatch.setattr(bench, "BROKEN_EVERY", 10)
    monkeypatch.setattr(bench, "ProcessPoolExecutor", InProcess)
    bench.main(["--images", "40", "--px", "64", "--workers", "0"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["images"] == 40
    assert report["faults_found"] == report["faults_planted"] == 4
    assert report["seconds"] >= report["seconds_faults"] > 0


class InProcess:
    """A pool of none."""

    def __init__(self, workers):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, function, items, chunksize):
        return map(function, items)
