"""scripts/bench/evaluate.py on the toy: one seed, with and without retrieval, and a second call that trains nothing."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest
from test_kill import CONFIG

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench" / "evaluate.py"


@pytest.fixture
def evaluate(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(SCRIPT.parent), *sys.path])
    spec = importlib.util.spec_from_file_location("evaluate", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", paths)
    return module


def test_prints_a_table_with_controls_and_ends_with_json(evaluate, tmp_path, capsys):
    config = tmp_path / "toy.yaml"
    text = CONFIG.replace("FOLDER", str(tmp_path)).replace("test_after_fit: false", "").split("trainer:")[0]
    config.write_text(text.replace("    max_eval_queries: 2\n", "") + "trainer: {max_epochs: 2}\n")
    arguments = ["--data", str(config), "--seeds", "0", "--folder", str(tmp_path / "runs"), "--without_retrieval"]
    evaluate.main(arguments)
    out = capsys.readouterr().out
    alone = "reader trained without retrieval"
    for system in ("retrieved", "no retrieval", "random retrieval", alone, "majority", "question-only"):
        assert f"| {system} |" in out
    figures = json.loads(out.splitlines()[-1])[str(config)]
    value, low, high = figures["table"]["retrieved"]["accuracy"]
    assert 0 <= low <= value <= high <= 1
    assert set(figures["retrieved_minus"]) == {"no retrieval", "random retrieval", alone}
    evaluate.main(arguments)
    again = capsys.readouterr().out
    assert "medrag_lightning fit" not in again
    assert json.loads(again.splitlines()[-1]) == json.loads(out.splitlines()[-1])
