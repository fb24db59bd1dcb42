"""Temporary files that killed processes left are swept, others stay; refusals are told with their remedy."""

import errno
import os
import pickle
import subprocess
import sys

import pytest

from medrag_lightning import disk
from medrag_lightning.artifacts import atomic_write, free_name, read_json, read_manifest, write_bytes, write_manifest
from medrag_lightning.disk import REMEDIES, DiskError, Unfinished, disk_fault, refusals_told

KILLED = """
import os, sys
from medrag_lightning.artifacts import atomic_write
with atomic_write(sys.argv[1]) as stream:
    stream.write(b"half")
    stream.flush()
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_goes_and_what_another_writes_stays(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "other.bin")], env=os.environ, check=False)
    (tmp_path / ".mine.tmp").write_text("not ours")
    assert len(list(tmp_path.glob(".*.tmp"))) == 2
    disk._swept.clear()
    under_way = Unfinished(tmp_path / "slow.bin")  # of a process that is still there
    disk._swept.clear()
    write_bytes(tmp_path / "a.bin", b"a")
    assert {path.name for path in tmp_path.iterdir()} == {"a.bin", ".mine.tmp", under_way.temporary.name}
    under_way.finish()
    under_way.close()
    assert (tmp_path / "slow.bin").is_file()


@pytest.mark.parametrize("number", REMEDIES)
def test_every_refusal_has_a_meaning_and_a_remedy(number, tmp_path):
    with pytest.raises(DiskError) as caught, refusals_told(tmp_path / "x"):
        raise OSError(number, os.strerror(number))
    told = str(caught.value)
    assert str(tmp_path / "x") in told
    assert REMEDIES[number][0] in told
    assert REMEDIES[number][1] in told
    assert str(pickle.loads(pickle.dumps(caught.value))) == told  # noqa: S301  (errors cross processes)


def test_the_reason_is_found_behind_other_errors_and_others_pass(tmp_path):
    try:
        try:
            raise OSError(errno.ENOSPC, "full", "/data/x")
        except OSError as first:
            raise RuntimeError("unexpected pos 64 vs 0") from first
    except RuntimeError as second:
        found = disk_fault(second, tmp_path)
    assert found is not None
    assert (found.errno, found.filename) == (errno.ENOSPC, "/data/x")
    assert disk_fault(ValueError("x"), tmp_path) is None
    with pytest.raises(FileNotFoundError), refusals_told(tmp_path):
        (tmp_path / "none").read_text()
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "y"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_manifest_knows_every_change_and_an_old_one_is_read(tmp_path):
    path = tmp_path / "manifest.json"
    write_manifest(path, {"a": (1, 2), "b": {"c": None}})
    assert read_manifest(path, "x") == {"a": [1, 2], "b": {"c": None}}
    path.write_text(path.read_text().replace("2", "3"))
    with pytest.raises(ValueError, match=r"manifest\.json is damaged: not what was written; do this"):
        read_manifest(path, "do this")
    path.write_text('{"a": 1}')
    assert read_manifest(path, "x") == {"a": 1}
    path.write_text("[1]")
    with pytest.raises(ValueError, match="no mapping; do this"):
        read_manifest(path, "do this")
    for bytes_, told in ((b"\xff", "not UTF-8"), (b"[" * 200_000, "nested too deeply")):
        path.write_bytes(bytes_)
        with pytest.raises(ValueError, match=told):
            read_json(path)


def test_a_name_in_use_gives_way():
    assert free_name("scores.arrow", []) == "scores.arrow"
    assert free_name("scores.arrow", ["scores.arrow"]) == "scores.next.arrow"
    assert free_name("scores.arrow", ["scores.next.arrow"]) == "scores.arrow"
