"""The benchmark runs, the exact loop gives our numbers, and the last line is JSON with the agreed keys."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "scripts" / "bench" / "scoring.py"


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_the_exact_loop_agrees_and_fewer_tokens_are_computed(family: str, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("bench_scoring", PATH)
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    bench.ALONE = 6
    small = ["--hidden", "64", "--layers", "1", "--vision_layers", "1", "--image_side", "32"]
    bench.main(["--candidates", "3", "--queries", "12", "--prompts_per_pack", "9", "--rounds", "1", "--family", family, *small])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"ratio_jomed_loop", "ratio_cached_loop", "ratio_exact_loop", "ratio_exact_loop_batched"} <= set(report)
    assert {"of_token_bound_exact_loop", "ratio_exact_loop_no_overlap", "ratio_exact_loop_query_first"} <= set(report)
    for order in ("evidence_first", "query_first"):
        for found in report[order].values():
            assert found["max_difference_nats"] <= 1e-5
            assert found["ours"]["tokens"] < found["exact_loop"]["tokens"] / 3
            assert found["exact_loop"]["tokens"] <= found["exact_loop_batched"]["tokens"]
            assert found["ours"]["vision_tokens"] < found["jomed_loop"]["vision_tokens"]
            assert found["ours"]["gflop"] < found["cached_loop"]["gflop"] < found["jomed_loop"]["gflop"]
