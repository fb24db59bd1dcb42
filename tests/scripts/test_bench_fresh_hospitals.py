"""Fused retrieval in hospitals that it has not seen: the measures by hand, and a table of them."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from medrag_lightning.records import Candidate, Channel, Document, Query, Retrieved

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


@pytest.fixture
def fresh(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    spec = importlib.util.spec_from_file_location("bench_fresh_hospitals", BENCH / "fresh_hospitals.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _found(*names: str) -> Retrieved:
    return Retrieved("q", tuple(Candidate(Document(name, "x"), 0.5, Channel.FUSED) for name in names))


def test_measures_by_hand(fresh):
    query = Query("q", "?", relevant_ids=("a", "b", "c"))
    assert fresh.measures(query, _found("a", "b", "c")) == (1.0, 1.0, pytest.approx(1.0))
    first, share, ndcg = fresh.measures(query, _found("x", "b"))
    assert (first, share) == (0.0, 0.5)
    assert ndcg == pytest.approx((1 / np.log2(3)) / (1 + 1 / np.log2(3)))


def test_the_table_tells_what_learned_fusion_is_above_each(fresh, capsys):
    one = {"q1": (1.0, 0.5, 0.5), "q2": (0.0, 0.5, 0.5)}
    run = {"image to image": one, "mcr": {"q1": (1.0, 1.0, 1.0), "q2": (1.0, 0.5, 0.75)}}
    told = fresh.report([run, run], {"q1": "p1", "q2": "p2"})
    assert (told["questions"], told["patients"]) == (2, 2)
    assert told["image to image"]["first"]["mcr_minus"][0] == 0.5
    assert told["mcr"]["nDCG@K"] == {"value": told["mcr"]["nDCG@K"]["value"], "mcr_minus": None}
    assert "2 questions, 2 patients, 2 runs" in capsys.readouterr().out
