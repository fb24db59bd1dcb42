"""A real fit, score or index, killed while it touches the disk, ends as an undisturbed one once it is run again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("real_runs_script.py")


def drill(kind: str, kills: int, world: Path, record_property) -> None:
    command = [sys.executable, str(SCRIPT), kind, str(world), str(kills), "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1700, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:] + (world / "log.txt").read_text()[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    record_property("kills", (told["survived"], told["kills"]))
    assert told["calls"] > 8
    assert told["survived"] == kills, "\n".join(told["wrong"])


def test_a_killed_index_is_built_again(world, record_property):
    drill("index", 6, world, record_property)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["fit", "score", "index"])
def test_many_killed_runs_end_as_an_undisturbed_one(kind, world, record_property):
    drill(kind, 40 if kind == "index" else 25, world, record_property)
