"""A file that vanishes or is spoilt between setup and reading: the message names it, whoever meets it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medrag_lightning.cli.outcome import user_message
from medrag_lightning.data.images import ImageStore
from medrag_lightning.records import ImageRef

WORKER = """
import sys
from pathlib import Path
from torch.utils.data import DataLoader
from medrag_lightning.cli.outcome import user_errors
from medrag_lightning.data.images import ImageStore
from medrag_lightning.records import ImageRef

store = ImageStore([sys.argv[1]])

class Items:
    def __len__(self):
        return 2

    def __getitem__(self, place):
        if len(sys.argv) > 2:
            raise OSError(28, "No space left on device", "/tmp/x")
        return store(ImageRef(sys.argv[1] + f"/{place}.png"))

with user_errors("fit"):
    list(DataLoader(Items(), num_workers=1, batch_size=None))
"""


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "0.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    return path


def spoil(path: Path, how: str) -> None:
    {
        "gone": path.unlink,
        "empty": lambda: path.write_bytes(b""),
        "cut": lambda: path.write_bytes(path.read_bytes()[:40]),
        "a folder": lambda: (path.unlink(), path.mkdir()),
    }[how]()


@pytest.mark.parametrize("how", ["gone", "empty", "cut", "a folder"])
def test_an_image_is_named(picture, how, record_property):
    store, ref = ImageStore([picture.parent]), ImageRef(str(picture))
    store(ref)
    spoil(picture, how)
    with pytest.raises(ValueError, match=r"0\.png.*(there is no such image file|not an image|damaged)"):
        store(ref)
    record_property("drill", ("vanished file", 1, 1))


@pytest.mark.parametrize("how", ["gone", "cut"])
def test_an_array_of_images_is_named(tmp_path, how, record_property):
    path = tmp_path / "all.npz"
    np.savez(path, images=np.zeros((4, 8, 8), np.uint8))
    store, ref = ImageStore([tmp_path]), ImageRef(str(path), "images", 1)
    path.unlink() if how == "gone" else path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"all\.npz"):
        store(ref)
    record_property("drill", ("vanished file", 1, 1))


@pytest.mark.parametrize("refused", [False, True])
def test_a_loader_process_tells_it_in_one_line(picture, refused, record_property):
    picture.unlink()
    command = [sys.executable, "-c", WORKER, str(picture.parent), *(["full"] if refused else [])]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 2
    told = done.stderr.strip().splitlines()[-1]
    assert ("the disk is full" if refused else "there is no such image file") in told
    record_property("drill", ("vanished file", 1, 1))


def test_faults_of_the_program_keep_their_traceback():
    assert user_message(RuntimeError("shapes do not match")) is None
    caught = "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    other = caught + '  File "/site/numpy/core.py", line 3, in x\n    y\nValueError: shapes\n'
    assert user_message(ValueError(other)) is None
    ours = caught + '  File "/x/medrag_lightning/data/images.py", line 3, in x\n    y\nValueError: a.png: damaged\n'
    assert user_message(ValueError(ours)) == "a.png: damaged"
    assert "another process of this run has ended" in (user_message(RuntimeError("[x] Connection closed by peer")) or "")
