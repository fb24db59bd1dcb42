"""The script on preferences reads prediction files, compares what both answered, and tells a JSON line."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "bench"))
import preferred


def row(name, answer, gold="a nodule", **more):
    told = {
        "query_id": name,
        "regime": "retrieved",
        "system": None,
        "noise": None,
        "gold": gold,
        "answer": answer,
        "choices": [],
    }
    return {**told, **more}


def written(path, rows):
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return str(path)


def test_two_files_are_compared(tmp_path, capsys):
    other = row("q3", "b", choices=["a", "b"])
    more = [row("q1", "no", regime="none"), row("q2", "spoilt", noise={"kind": "irrelevant"})]
    mine = written(tmp_path / "a.jsonl", [row("q1", "a nodule"), row("q2", "nothing"), other, row("q9", "x"), *more])
    theirs = written(tmp_path / "b.jsonl", [row("q1", "a cyst"), row("q2", "nothing"), other])
    preferred.main([mine, theirs, "--kind", "open"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["pairs"], told["win"]["value"], told["tie"]["value"], told["win_rate"]["value"]) == (2, 0.5, 0.5, 0.75)
    assert told["swap_consistency"]["value"] == 1.0
    preferred.main([mine, mine, "--system_b", "none"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["win"]["value"] == 1.0
    with pytest.raises(ValueError, match="no predictions of 'mcr'; there are: none, retrieved"):
        preferred.main([mine, theirs, "--system_a", "mcr"])
