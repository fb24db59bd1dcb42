"""The plan's benchmark compares a plan with a run, and its last line is JSON."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from medrag_lightning.cli.plan_figures import Evaluated, Probe, Timed

PATH = Path(__file__).parents[2] / "scripts" / "bench" / "plan.py"


@pytest.fixture
def bench():
    spec = importlib.util.spec_from_file_location("bench_plan_script", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_plan_is_compared_with_a_run(bench, tmp_path, monkeypatch, capsys):
    told = Probe(samples=10, batch_size=1, train_batches=10, epochs=2, cold=[Timed(0.5, 0.5, True)], start_seconds=20.0)
    told.peak_train, told.checkpoints_kept, told.checkpoint_bytes = 300, 2, 50
    told.evaluations = [Evaluated("test", 1, 1, 0.0, 10.0)]
    asked = []

    def run(words):
        asked.append(words)
        (Path("runs") / "a").mkdir(parents=True)
        (Path("runs") / "a" / "last.ckpt").write_bytes(b"0" * 200)
        return 100.0, 400

    monkeypatch.setattr(bench, "run_probe", lambda *arguments: {"probe": asdict(told)})
    monkeypatch.setattr(bench, "run", run)
    here = Path.cwd()
    bench.main(["--folder", str(tmp_path), "--max_epochs", "2"])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (line["seconds_predicted"], line["seconds_ratio"], line["peak_ratio"], line["disk_ratio"]) == (50.0, 0.5, 0.75, 0.5)
    assert asked == [["--trainer.max_epochs=2", "--data.init_args.max_train_queries=2000"]]
    assert Path.cwd() == here


def test_a_plan_that_failed_is_told(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "run_probe", lambda *arguments: {"failure": "user", "text": "no such file"})
    with pytest.raises(ValueError, match="no such file"):
        bench.main(["--folder", str(tmp_path)])
