"""The benchmark of distillation epochs runs at a tiny size."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "bench"))
import distil_epoch

TINY = ["--hidden", "32", "--layers", "1", "--vision_layers", "1", "--candidates", "7", "--queries", "4", "--rounds", "1"]


def test_it_runs_and_ends_with_json(capsys):
    distil_epoch.main([*TINY, "--image_side", "32"])
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    for name in ("ratio", "ratio_first_epoch", "ratio_stopping", "ratio_first_epoch_stopping"):
        assert told[name] > 0
    assert told["threads"] >= 1
