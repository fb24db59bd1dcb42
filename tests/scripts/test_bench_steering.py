"""The steering benchmark runs at a tiny size and reports what was measured."""

import importlib.util
import json
from pathlib import Path

PATH = Path(__file__).parents[2] / "scripts" / "bench" / "steering.py"


def test_reports_ratios_and_the_difference_to_float64(capsys):
    spec = importlib.util.spec_from_file_location("bench_steering", PATH)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    bench.main(["--tokens", "400", "--hidden", "64", "--layers", "2", "--heads", "4", "--repeats", "1"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"extra_time_fraction", "extra_memory_fraction", "memory_ratio_eager", "threads"} <= set(report)
    differs = report["max_logp_difference_to_float64"]
    assert differs["paper"] <= 1e-4 < differs["stock"]
    assert report["peak_mib"]["eager"] > report["peak_mib"]["paper"]
