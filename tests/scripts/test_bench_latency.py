"""The latency table: medians of what answers tell, relative to the first place."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "bench"))
import latency

sys.path.insert(0, str(Path(__file__).parents[1] / "handoff"))
from bundle_world import World, answerer, export, in_this_process, live, reader

from medrag_lightning.handoff.bundle import export as exporting


class Slow:
    """Takes longer and longer; every other answer searches."""

    reader, generator = None, None

    def __init__(self, factor):
        self.factor, self.asked = factor, 0

    def answer(self, query):
        self.asked += 1
        search = {"retrieve": 2.0} if self.asked % 2 else {}
        return SimpleNamespace(seconds={**search, "read": self.factor * self.asked})


def test_medians_and_what_is_relative(monkeypatch, capsys, tmp_path):
    made = {"one": Slow(1.0), "two": Slow(10.0)}
    monkeypatch.setattr(latency, "opened", lambda place, *rest: (made[place.name], ["q"]))
    latency.main([str(tmp_path / "one"), str(tmp_path / "two"), "--questions", "3"])
    out = capsys.readouterr().out
    told = json.loads(out.splitlines()[-1])["places"][str(tmp_path / "one")]
    assert told["seconds"] == {"read": 3.0, "retrieve": 0.0, "all": 4.0}  # 2, 2 + 3, 4 seconds; the first is not counted
    assert "| 4000.0 |" in out
    assert "| 8.00 |" in out  # 20, 32, 40 against 2, 5, 4


def test_a_bundle_is_asked_its_probes(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(exporting, "ask_in_clean_process", in_this_process)
    world = World(tmp_path)
    export(world, answerer(world, tmp_path, reader(), live({"image_to_image": 1})), tmp_path)
    latency.main([str(tmp_path / "bundle"), "--questions", "5"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["places"][str(tmp_path / "bundle")]
    assert set(told["seconds"]) == {"retrieve", "encode", "read", "all"}
    assert 0 < told["seconds"]["read"] <= told["seconds"]["all"] <= told["p95_seconds"]
    assert told["parameters"] > 1000


def test_checkpoints_are_one_or_one_each(capsys):
    with pytest.raises(SystemExit):
        latency.main(["a", "b", "c", "--ckpt_path", "last", "best"])
    assert "2 checkpoints for 3 places" in capsys.readouterr().err
