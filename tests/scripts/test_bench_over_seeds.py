"""Scripts over seeds: which recipe they run, and where."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "scripts" / "bench"


@pytest.mark.parametrize(
    ("script", "recipe"),
    [("heterorag", "heterorag"), ("hkpt", "hkpt_compared"), ("joint", "joint"), ("jomed", "jomed"), ("mrrag", "mrrag")],
)
def test_scripts_run_their_own_recipe(script, recipe, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCH))
    over_seeds = importlib.import_module("over_seeds")
    started = []
    monkeypatch.setattr(over_seeds, "launch", lambda command, place: started.append((command, place)) or 1.0)
    importlib.import_module(script).main(["--data", "minihospital", "--seeds", "0", "4", "--only_run", "--more", "--lr", "1"])
    names = [Path("runs") / recipe / f"minihospital-seed{seed}" for seed in (0, 4)]
    assert [place for _, place in started] == names
    assert [command[:3] for command, _ in started] == [["run", recipe, "--folder"]] * 2
    assert all(command[-2:] == ["--lr", "1"] for command, _ in started)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {}
