"""A process whose first process was killed ends by itself."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medrag_lightning.cli.orphan import end_with_parent

CHILD = """
import sys, time
from medrag_lightning.cli import orphan
orphan.LOOK_SECONDS, orphan.GRACE_SECONDS = 0.05, 0.05
assert orphan.end_with_parent({"LOCAL_RANK": "1", "MEDRAG_RUN_FOLDER": "x"}) is not None
print("ready", flush=True)
time.sleep(100)
"""
PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, stderr=open(sys.argv[2], "w"), text=True)
child.stdout.readline()
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs /proc")
def test_it_ends_with_the_process_that_started_it(tmp_path):
    command = [sys.executable, "-c", PARENT, CHILD, str(tmp_path / "told.txt")]
    parent = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=60)
    place = Path("/proc") / parent.stdout.strip() / "stat"
    until = time.monotonic() + 20
    while place.is_file() and place.read_text().split(") ")[1][0] != "Z":
        assert time.monotonic() < until, "still running"
        time.sleep(0.05)
    assert "the first process of this run has ended, and so does this one" in (tmp_path / "told.txt").read_text()


def test_the_first_process_and_others_are_not_watched():
    assert end_with_parent({}) is None
    assert end_with_parent({"LOCAL_RANK": "0", "MEDRAG_RUN_FOLDER": "x"}) is None
    assert end_with_parent({"LOCAL_RANK": "1"}) is None  # started by torchrun, which watches itself
