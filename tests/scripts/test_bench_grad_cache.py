"""The benchmark runs at a tiny size, its two gradients agree, and its last line is JSON."""

import importlib.util
import json
from pathlib import Path

PATH = Path(__file__).parents[2] / "scripts" / "bench" / "grad_cache.py"


def test_gradients_agree_and_the_report_is_json(capsys):
    spec = importlib.util.spec_from_file_location("bench_grad_cache", PATH)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    shape = ["--hidden", "32", "--layers", "1", "--image-px", "32", "--tokens", "8"]
    bench.main([*shape, "--batch", "8", "--chunk", "4", "--repeats", "1", "--memory", "4", "16", "--plain-memory", "16"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["max_relative_gradient_difference"] <= 1e-6
    assert report["peak_mib_chunks"]["16"] < report["peak_mib_plain"]["16"]
    assert {"ratio", "cpu_ratio", "peak_growth", "inputs_mib_at_largest"} <= set(report)
