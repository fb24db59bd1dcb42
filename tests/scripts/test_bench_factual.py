"""The script that mines generated reports and compares positives, on very little."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "bench"))
import factual


def test_generated_reports_are_mined(capsys):
    factual.main(["--reports", "300"])
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["mining"]
    assert told["documents"] == 300
    assert 200 < told["with_facts"] <= 300


@pytest.mark.slow
def test_positives_are_compared(tmp_path, capsys):
    words = ["--data", "minihospital", "--patients", "48", "--epochs", "1", "--seeds", "0", "--folder", str(tmp_path)]
    factual.main([*words, "--modes", "copies", "twins"])
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["minihospital"]
    assert set(told["twins right"]) == {"copies", "twins", "twins - copies"}
