"""The tables on calibrated selection, from finished runs that are made by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "bench"))
import calibrated as bench

from medrag_lightning.calibration import CalibrationSettings, Outcomes, calibrate
from medrag_lightning.calibration.artifact import write

OF = dict.fromkeys(("reader", "template", "corpus", "source", "evidence", "fusion", "calibration_set"), "x")


def outcomes(seed, n):
    rng = np.random.default_rng(seed)
    sure_N = rng.uniform(0.3, 1.0, n)
    loss_KN = np.stack([rng.random(n) > np.clip(sure_N + gain, 0, 1) for gain in (-0.3, 0.2, 0.1)]).astype(float)
    return Outcomes((0, 1, 2), loss_KN, np.tile(sure_N, (3, 1)), tuple(f"p{seed}-{number}" for number in range(n)))


@pytest.fixture
def run(tmp_path, monkeypatch):
    val, test = outcomes(1, 200), outcomes(2, 100)
    place = tmp_path / "made-seed0"
    for step, settings in {
        "calibrate": CalibrationSettings(0.4, 0.1, (1, 2)),
        "joint": CalibrationSettings(0.3, 0.1, (1, 2), (0.0, 0.5, 0.7), (None, 0.8)),
    }.items():
        (place / step).mkdir(parents=True)
        write(place / step / "calibration.json", calibrate(val, settings), "error", "patients", OF)
    rows = []
    for number, unit in enumerate(test.units):
        for k, system in ((1, None), (1, "k = 1"), (2, "k = 2")):
            lost = test.loss_KN[k, number]
            rows.append({"query_id": unit, "regime": "retrieved", "system": system, "noise": None, "choices": ["a", "b"],
                         "gold": "a", "correct": not lost})  # fmt: skip
    (place / "test" / "predictions").mkdir(parents=True)
    (place / "test" / "predictions" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "test" / "results.json").write_text('{"rows": []}')
    monkeypatch.setattr(bench, "outcomes_of", lambda place: (val, test))
    monkeypatch.setattr(bench, "test_queries", lambda config: {unit: SimpleNamespace(id=unit) for unit in test.units})
    monkeypatch.setattr(bench, "cluster_of", lambda queries, unit: {query.id: query.id for query in queries})
    monkeypatch.setattr(bench, "PARTS", 20)
    return tmp_path, val, test


def test_what_was_kept_is_told(run, capsys):
    folder, _, test = run
    told = bench.report("made", [0], folder)
    plain, joint = told["guarantees"]
    assert plain["taken"] == "with 1 candidate"
    assert plain["guaranteed"]
    assert plain["test_risk"] == pytest.approx(test.loss_KN[1].mean())
    assert (plain["coverage"], plain["searched"]) == (1.0, 1.0)
    assert joint["test_risk"] < 0.3
    assert 0 < joint["searched"] <= 1.0
    systems = told["systems"]
    assert systems["calibrated k"]["accuracy"] == systems["k = 1"]["accuracy"]
    assert systems["k = 2"]["difference"][0] < 0
    halves = told["halves"]
    assert halves["k alone"]["n"] == 150
    assert halves["k alone"]["above_alpha"] <= 0.1
    assert halves["k alone, alpha 0.1"]["guaranteed"] == 0.0
    assert "| k alone | 0.4 |" in capsys.readouterr().out
