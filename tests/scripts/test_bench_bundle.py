"""The bundle benchmark exports a run in its forms and finds every flipped bit."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "handoff"))
from bundle_world import SOURCES, World, answerer, in_this_process, reader, run_of

from medrag_lightning.handoff.bundle import export as exporting

PATH = Path(__file__).parents[2] / "scripts" / "bench" / "bundle.py"


@pytest.fixture
def bench():
    spec = importlib.util.spec_from_file_location("bench_bundle", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_form_is_exported_and_every_flip_is_found(bench, tmp_path, monkeypatch, capsys):
    world = World(tmp_path)

    def fresh(run, checkpoint, fusion, system):
        return run_of(world, answerer(world, tmp_path, reader(True), SOURCES["live"]()), tmp_path)

    monkeypatch.setattr(bench, "read_run", fresh)
    monkeypatch.setattr(exporting, "ask_in_clean_process", in_this_process)
    bench.main([str(tmp_path), "--probes", "2", "--flips", "5"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(told["seconds"]) == ["merged_float32", "merged_bfloat16", "adapter_as_trained", "both_float32"]
    assert told["max_abs_delta_nats"]["merged_float32"] <= 1e-5
    assert told["flips_found"] == told["flips"] == 5
