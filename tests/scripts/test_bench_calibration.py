"""The script that counts how often guarantees fail, on few draws."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "bench"))
import calibration


def test_few_draws_keep_the_promise(capsys, monkeypatch):
    monkeypatch.setattr(calibration, "TRUTH", 20_000)
    calibration.main(["--draws", "6"])
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    for kind in ("k_alone", "joint", "joint_patients"):
        assert set(told[kind]) == set(calibration.PROCEDURES)
        assert all(row["violation_rate"] <= 1 / 6 for row in told[kind].values())
        assert all(row["taken_violates"] <= row["violation_rate"] for row in told[kind].values())
