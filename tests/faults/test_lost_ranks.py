"""Of two processes that train together one dies, or meets a mistake alone: the other does not hang, and the run tells of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

STAGES = Path(__file__).parents[1] / "stages"
sys.path.insert(0, str(STAGES))
from test_kill import CONFIG  # noqa: E402  (the toy's configuration)

LIMIT_SECONDS = 45
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
BAD_TABLE = '''
from __future__ import annotations

import os
from pathlib import Path

from toy import ToyTable


class Vanishing(ToyTable):
    """Its images are gone for the second process once training has begun."""

    def roots(self) -> list[Path]:
        if os.environ.get("LOCAL_RANK") == "1" and os.environ.get("DRILL_MISTAKE"):
            return [self.path.parent / "elsewhere"]
        return super().roots()
'''


class Pair:
    """`fit` on two processes, whose output lies in one file."""

    def __init__(self, folder: Path, mistake: bool = False) -> None:
        self.folder = folder
        (folder / "bad_table.py").write_text(BAD_TABLE)
        config = CONFIG.replace("FOLDER", str(folder)).replace("max_epochs: 30", "max_epochs: 3000")
        (folder / "toy.yaml").write_text(config.replace("toy.ToyTable", "bad_table.Vanishing"))
        paths = os.pathsep.join([str(STAGES), str(folder), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "DRILL_MISTAKE": "1" if mistake else ""}
        command = [sys.executable, "-m", "medrag_lightning", "fit", "-c", str(folder / "toy.yaml"), "--trainer.devices", "2"]
        command += ["--trainer.default_root_dir", str(folder / "run"), "--trainer.strategy", "ddp", "--test_after_fit", "false"]
        self.log = folder / "log.txt"
        with self.log.open("w") as stream:
            self.first = subprocess.Popen(
                command, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.second = 0

    def wait_for_training(self) -> None:
        until = time.monotonic() + 200
        last = self.folder / "run" / "checkpoints" / "last.ckpt"
        while not (last.is_file() and torch.load(last, weights_only=True)["global_step"] >= 2):
            assert self.first.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < until, self.log.read_text()[-3000:]
            time.sleep(0.1)
        (self.second,) = [child for child in children(self.first.pid) if "fit" in command_of(child)]

    def ends(self, limit_seconds: float = LIMIT_SECONDS) -> float:
        """How long both still ran, in seconds."""
        began = time.monotonic()
        while time.monotonic() - began < limit_seconds:
            if self.first.poll() is not None and not (self.second and alive(self.second)):
                return time.monotonic() - began
            time.sleep(0.1)
        os.killpg(self.first.pid, signal.SIGKILL)
        raise AssertionError(f"still running after {limit_seconds} s: {self.log.read_text()[-3000:]}")


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("victim", ["second", "first"])
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_a_killed_rank_ends_the_run_and_its_checkpoint_is_whole(tmp_path, victim, record_property):
    record_property("drill", ("lost rank", 0, 1))
    pair = Pair(tmp_path)
    pair.wait_for_training()
    os.kill(pair.first.pid if victim == "first" else pair.second, signal.SIGKILL)
    seconds = pair.ends()
    record_property("seconds", seconds)
    assert pair.first.returncode != 0
    told = pair.log.read_text()
    assert "another process of this run has ended" in told or "terminated with code" in told
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] >= 2
    record_property("drill", ("lost rank", 1, 0))


def test_a_mistake_that_one_rank_meets_ends_both_and_is_told(tmp_path, record_property):
    record_property("drill", ("lost rank", 0, 1))
    pair = Pair(tmp_path, mistake=True)
    pair.ends(limit_seconds=240)  # its start included
    assert pair.first.returncode != 0
    assert "declare its folder as a root" in pair.log.read_text()
    record_property("drill", ("lost rank", 1, 0))
