"""How often searches find gold: by words alone in a small world, and the table of rows by hand."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from medrag_lightning.models.tiny_towers import TinyTowers
from medrag_lightning.records import Query, Split
from medrag_lightning.search_files import SearchRow, write_searches

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    spec = importlib.util.spec_from_file_location("bench_searches", BENCH / "searches.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_searches", module)
    spec.loader.exec_module(module)
    return module


def test_best_wordings_find_everything_and_a_table_of_searches_is_a_row(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "trained_encoder", lambda *_: TinyTowers(dim=32))
    empty = [SearchRow(query.id, Split.TEST, ()) for query in bench.world(1, 96, tmp_path).queries]
    write_searches(tmp_path / "asks1", empty, {"generator": "silent"})
    tables = ["--tables", f"silent={tmp_path}/asks{{seed}}"]
    bench.main(["--seeds", "1", "--size", "96", "--folder", str(tmp_path), *tables])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(told)[3:] == ["question", "clip", "silent", "best wording"]
    assert told["best wording"]["all"]["hit@2"][0] == 1.0
    assert told["silent"]["all"]["hit@2"][0] == 0.0
    assert 0 < told["question"]["document"]["hit@2"][0] < 1
    assert told["worlds"] == 1


def test_the_table_by_hand(bench, capsys):
    queries = [Query("a", "?", need="document"), Query("b", "?", need="image_document")]
    worlds = [SimpleNamespace(queries=queries, entities=[f"{seed} x", f"{seed} y"]) for seed in (0, 1)]
    told = bench.report(worlds, [{"one": [0.0, 0.0], "two": [1.0, 0.0]}, {"one": [1.0, 0.0], "two": [1.0, 1.0]}])
    assert (told["questions"], told["entities"], told["worlds"]) == (4, 4, 2)
    assert told["one"]["all"]["hit@2"][0] == 0.25
    assert told["one"]["document"]["hit@2"][0] == 0.5
    assert told["two"]["all"]["above the row before"][0] == 0.5
    assert told["two"]["report_document"]["hit@2"] is None
    assert "image_document" in capsys.readouterr().out


def test_a_table_without_a_name_is_refused(bench):
    with pytest.raises(SystemExit):
        bench.main(["--tables", "runs/sft"])
