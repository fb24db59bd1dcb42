"""The benchmark runs, its two trainers agree on every loss, and its last line is JSON."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).parents[2] / "scripts" / "bench" / "reader_step.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_reader_step", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_trainers_see_the_same_losses(
    bench: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = bench.TinyBackbone(hidden=32, layers=1, heads=2, vision_hidden=16, vision_layers=1)
    monkeypatch.setattr(bench, "backbone", lambda: small)
    bench.main(["--batch", "4", "--steps", "4", "--rounds", "1"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["max_loss_difference"] <= 1e-5
    assert {"ratio_uniform", "ratio_skewed", "cpu_ratio_uniform", "share_collation_uniform"} <= set(report)


def test_too_few_steps_are_refused(bench: ModuleType) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--steps", "2"])
