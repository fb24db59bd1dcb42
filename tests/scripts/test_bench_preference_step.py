"""The benchmark runs, ours and trl agree on losses and gradients, and its last line is JSON."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "scripts" / "bench" / "preference_step.py"


def test_both_take_the_same_step(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("bench_preference_step", PATH)
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    sizes = [word for name, value in bench.SMALLEST.items() for word in (f"--{name}", str(value))]
    bench.main([*sizes, "--batch", "2", "--repeats", "1", "--vocabularies", "500", "--quick"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["loss_difference_shared"] <= 1e-6
    assert report["gradient_difference_shared"] <= 1e-5
    assert report["loss_difference_image_differs"] <= 1e-6
    assert report["gradient_difference_image_differs"] <= 1e-5
    assert {"ratio_shared", "ratio_image_differs", "compact_ratio_shared", "trl_share_lm_head_shared"} <= set(report)
