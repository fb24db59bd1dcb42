"""The benchmark of modality models runs on few pairs, keeps its ends apart, and tells every row."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).parents[2] / "scripts" / "bench"


@pytest.fixture
def bench(monkeypatch):
    spec = importlib.util.spec_from_file_location("bench_routes", BENCH / "routes.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_routes", module)
    spec.loader.exec_module(module)
    return module


def test_every_row_of_the_mini_hospital(bench, monkeypatch, capsys):
    small = bench.MiniHospital
    monkeypatch.setattr(bench, "MiniHospital", lambda seed, folder: small(seed=seed, folder=folder, size=120))
    bench.main(["--data", "minihospital", "--seeds", "0", "--steps", "3"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["minihospital"]
    assert told["search: given"] == told["modality models, own pool"]
    assert told["search: mixed, 9 steps"] == told["mixed, 9 steps, mixed pool"]
    assert told["search: wrong"]["all"][0] == 0.0
    assert told["modality models, mixed pool"]["all"][0] <= told["modality models, own pool"]["all"][0]
    assert told["router: linear"]["all"][0] > 0.9
    assert told["router_held_out"]["accuracy"] > 0.9
    assert "search: given - search: predicted" in told


def test_no_test_pair_is_learnt_from(bench, tmp_path):
    pairs = bench.read("minihospital", 0.25, tmp_path)
    assert not {d.id for d in pairs.train.documents} & {d.id for d in pairs.test.documents}
    assert not {d.patient_id for d in pairs.train.documents} & {d.patient_id for d in pairs.test.documents}
    assert set(pairs.of_test_N) == set(pairs.modalities)
    rows = np.array([3, 5])
    cut = bench.part(pairs.train, rows)
    assert [d.id for d in cut.documents] == [pairs.train.documents[row].id for row in rows]
    encoder = bench.TinyTowers(bench.DIM).eval()
    whole = encoder.text_vectors(pairs.train.text).detach().numpy()[rows]
    assert np.allclose(encoder.text_vectors(cut.text).detach().numpy(), whole, atol=1e-6)
