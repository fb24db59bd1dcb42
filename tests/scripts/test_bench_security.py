"""The security drills: every one is refused, and the harness notices when one is not."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    import security
    import security_bombs

    monkeypatch.setattr(security_bombs, "ZEROS", 80 << 20)
    return security


@pytest.mark.parametrize(("part", "at_least"), [("bombs", 36), ("paths", 39), ("pickles", 50)])
def test_everything_hostile_is_refused(bench, capsys, part, at_least):
    assert bench.main(["--only", part]) == 0, capsys.readouterr().out
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["refused"] == told["tried"] >= at_least


def test_the_harness_notices_what_is_read_what_is_large_and_what_dies(bench):
    import os

    from security_bombs import Drill

    for read in (lambda: None, lambda: bytearray(b"x") * (200 << 20) and _refuse(), lambda: os._exit(1), lambda: 1 / 0):
        assert not bench.outcome(Drill("x", "x", read))[0]
    assert bench.outcome(Drill("x", "x", _refuse))[0]


def _refuse() -> None:
    raise ValueError("no")


def test_a_planted_file_runs_where_it_is_unpickled_and_the_drill_says_so(bench, tmp_path):
    from security_pickles import Planted, _watched

    raw = pickle.dumps(Planted(tmp_path / "executed"))
    with pytest.raises(RuntimeError, match="code from the file was run"):
        _watched(lambda: pickle.loads(raw), tmp_path / "executed")()  # noqa: S301  (that it runs is the point)
    with pytest.raises(RuntimeError, match="the file was read"):
        _watched(lambda: None, tmp_path / "executed")()


def test_a_canary_is_found_in_names_in_bytes_and_in_what_is_packed(bench, tmp_path):
    import zipfile

    from security_canaries import search

    out = tmp_path / "out"
    out.mkdir()
    (out / "clean.txt").write_text("nothing here")
    assert search(out, tmp_path)[0] == []
    (out / "CANARYFILE_1.txt").write_text("x")
    (out / "bytes.bin").write_bytes(b"\0CANARYNAME\0" + "CANARYMRN".encode("utf-16-le"))
    with zipfile.ZipFile(out / "a.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", "19770707" * 9)
    found, searched = search(out, tmp_path)
    assert sorted(found) == [
        ("CANARYFILE_1.txt", "CANARYFILE"), ("a.ckpt", "19770707"), ("bytes.bin", "CANARYMRN"), ("bytes.bin", "CANARYNAME"),
    ]  # fmt: skip
    assert searched > 30


@pytest.mark.slow
def test_no_identifier_is_in_anything_that_a_run_leaves(bench, tmp_path):
    from security_canaries import canaries_found

    told = canaries_found(tmp_path)
    assert told["canaries"] == 0
    assert told["canary_verbs_run"] >= 1
    assert told["canary_bytes_searched"] > 1_000_000
