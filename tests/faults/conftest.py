"""Where drills write: a disk in memory, if there is one, because thousands of fsyncs take minutes on a real one."""

import shutil
import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def world(tmp_path):
    """A folder that does not exist yet."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path / "world"
        return
    place = Path(tempfile.mkdtemp(prefix="drills", dir="/dev/shm"))
    yield place / "world"
    shutil.rmtree(place, ignore_errors=True)
