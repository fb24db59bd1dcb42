"""The script that plants copies, on a small hospital."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "bench"))
import copies


def test_planted_copies_are_counted(tmp_path, capsys):
    copies.main(["--patients", "24", "--planted", "3", "--folder", str(tmp_path)])
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["minihospital"]
    assert (told["own"], told["wrong"]) == (0, 0)
    assert told["found"]["half"] == told["found"]["brighter 10%"] == 1
