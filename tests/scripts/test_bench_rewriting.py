"""Follow-ups that find their text: a small world, by rules and in the best rewording."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    spec = importlib.util.spec_from_file_location("bench_rewriting", BENCH / "rewriting.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_rewriting", module)
    spec.loader.exec_module(module)
    return module


def test_rewritten_follow_ups_find_more_than_raw_ones_and_comparisons_mislead_the_rules(bench, tmp_path, capsys):
    bench.main(["--seeds", "0", "1", "--size", "144", "--folder", str(tmp_path)])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["worlds"] == 2
    hit = {row: {kind: told[row][kind]["hit@3"][0] for kind in told[row]} for row in ("raw", "rules", "oracle")}
    assert hit["oracle"]["all"] == 1.0
    assert hit["raw"]["all"] < hit["rules"]["all"] < hit["oracle"]["all"]
    assert told["rules"]["all"]["above the row before"][1] > 0, "the interval excludes 0"
    assert hit["rules"]["plain"] == hit["rules"]["changed subject"] == 1.0
    assert hit["rules"]["comparison"] < 0.2
