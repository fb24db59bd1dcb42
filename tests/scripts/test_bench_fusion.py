"""The benchmark of learned fusion runs at a tiny size."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "bench"))
import fusion


def test_it_runs_and_ends_with_json(capsys, monkeypatch):
    """In this process: starting two others would only import everything again."""

    def here(folder, channels, chosen):
        return {**fusion.measure(folder, channels, chosen.scope, chosen.steps), "process_seconds": 0.0}

    monkeypatch.setattr(fusion, "_child", here)
    fusion.main(["--queries", "3000", "--validation", "64", "--candidates", "12", "--steps", "40", "--rounds", "1"])
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    for name in ("seconds", "peak_rss_mb", "loop_seconds_extrapolated", "ratio_loop", "lbfgs_seconds", "threads"):
        assert told[name] > 0
    for channels in (3, 4):
        assert told[f"channels_{channels}"]["planted_cosine"] > 0.95
    assert told["lbfgs_planted_cosine"] > 0.95
