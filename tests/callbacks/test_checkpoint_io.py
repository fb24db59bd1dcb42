"""Checkpoints survive full disks and tell when they are damaged."""

import errno
import random
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from callbacks.checkpoint_io import AtomicCheckpointIO
from medrag_lightning.checkpoint_files import check_whole

STATE = {"state_dict": {"w": torch.arange(5000.0)}, "epoch": 3, "medrag": {"stage": "toy"}}


def saved(folder: Path, name: str = "last.ckpt") -> Path:
    path = folder / "checkpoints" / name
    AtomicCheckpointIO().save_checkpoint(STATE, path)
    return path


def test_round_trip_leaves_one_file(tmp_path):
    path = saved(tmp_path)
    loaded = AtomicCheckpointIO().load_checkpoint(path)
    assert torch.equal(loaded["state_dict"]["w"], STATE["state_dict"]["w"])
    assert loaded["epoch"] == 3
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


def test_remove_is_quiet_about_a_missing_file(tmp_path):
    path = saved(tmp_path)
    AtomicCheckpointIO().remove_checkpoint(path)
    AtomicCheckpointIO().remove_checkpoint(path)
    assert not path.exists()


@contextmanager
def small_files_only():
    """The system refuses to grow any file beyond 5000 bytes, as a full disk does; also the one that pytest prints to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_leaves_the_old_checkpoint(tmp_path):
    path = saved(tmp_path)
    before = path.read_bytes()
    with pytest.raises(OSError, match=r"larger than is allowed; raise.* untouched") as caught, small_files_only():
        AtomicCheckpointIO().save_checkpoint({"w": torch.zeros(100_000)}, path)
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_cut_file_is_refused_and_the_whole_one_named(tmp_path, keep):
    good = saved(tmp_path, "step=4.ckpt")
    path = saved(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else keep])
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged.*use .*step=4\.ckpt instead"):
        AtomicCheckpointIO().load_checkpoint(path)
    check_whole(good)


def test_changed_bytes_of_a_tensor_are_refused(tmp_path):
    path = saved(tmp_path)
    data = bytearray(path.read_bytes())
    rng = random.Random(0)
    for _ in range(20):
        place = 4000 + rng.randrange(12000)  # inside the 20000 bytes of the tensor
        changed = bytearray(data)
        changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"does not match its checksum.*no other whole"):
            AtomicCheckpointIO().load_checkpoint(path)


def test_missing_file_and_unsafe_loading_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not found"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(ValueError, match="would run code"):
        AtomicCheckpointIO().load_checkpoint(saved(tmp_path), weights_only=False)
    with pytest.raises(ValueError, match="storage_options"):
        AtomicCheckpointIO().save_checkpoint(STATE, tmp_path / "x.ckpt", storage_options={"a": 1})
