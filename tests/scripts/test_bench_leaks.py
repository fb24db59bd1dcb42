"""The bench of the leak audit: its own measures on a small hospital."""

import importlib.util
import json
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench" / "leaks.py"


@pytest.fixture
def bench():
    spec = importlib.util.spec_from_file_location("bench_leaks", BENCH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_ends_with_one_json_line(bench, tmp_path, capsys):
    bench.main(["--patients", "96", "--planted", "20", "--folder", str(tmp_path), "--look", str(tmp_path), "--scale", "100"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["minihospital"]["false"] == 0
    assert told["minihospital"]["recall"]["mirrored"] == 1.0
    assert told["scale"]["found"] == told["scale"]["planted"] == 1
    assert (tmp_path / "minihospital.png").is_file()


def test_every_pair_of_a_set_meets(bench, tmp_path):
    images = bench._load("minihospital", bench.argparse.Namespace(patients=24, folder=str(tmp_path), images=9))
    pool = bench._thumbnails([images[n] for n in (0, 1, 2, 3, 4, 5, 2, 5)])
    assert {(a, b) for a, b, _ in bench._within(pool)} == {(2, 6), (6, 2), (5, 7), (7, 5)}
