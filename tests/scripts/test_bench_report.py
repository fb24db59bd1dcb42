"""The benchmark of reports runs at a tiny size."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "bench"))
import report


def test_it_runs_and_ends_with_json(capsys):
    report.main(["--queries", "12", "--candidates", "2", "--image_px", "64"])
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert told["queries"] == 12
    assert told["images"] == 36
    assert 0 < told["megabytes"] < 15
    assert told["seconds"] > 0
    assert told["warnings"] == 0
