"""The bench of drills runs some, counts them, and its last line is JSON."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

PATH = Path(__file__).parents[2] / "scripts" / "bench" / "drills.py"


def test_drills_are_counted():
    done = subprocess.run(
        [sys.executable, str(PATH), "--quick", "--only", "results and failing"], capture_output=True, text=True
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout
    assert told["drills_passed"] == told["drills_tried"] > 10


def test_a_failed_drill_is_seen(monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("bench_drills", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Report:
        nodeid, when, failed, passed, skipped = "tests/faults/x.py::y", "call", True, False, False
        user_properties = (("drill", ("failing call", 3, 4)),)

    monkeypatch.setattr(module.pytest, "main", lambda words, plugins: plugins[0].pytest_runtest_logreport(Report))
    assert module.main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "failed: tests/faults/x.py::y" in lines
    assert json.loads(lines[-1])["drills_tried"] == 4
