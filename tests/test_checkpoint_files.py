"""Checkpoint files are read as plain data, or refused with the reason and another whole one's name."""

import zipfile
from pathlib import Path

import pytest
import torch

from medrag_lightning.checkpoint_files import check_whole, load_whole


class Planted:
    """Would make a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_tensors_and_plain_data_are_given(tmp_path):
    torch.save({"a": torch.ones(2), "b": [1, "x"]}, tmp_path / "a.ckpt")
    told = load_whole(tmp_path / "a.ckpt")
    assert told["b"] == [1, "x"]
    assert told["a"].tolist() == [1, 1]


def test_what_is_no_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        check_whole(tmp_path / "none.ckpt")
    with pytest.raises(ValueError, match="is a folder, not a file"):
        load_whole(tmp_path)


def test_other_things_than_a_checkpoint_are_refused_and_nothing_is_run(tmp_path):
    torch.save([1], tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match="holds a list"):
        load_whole(tmp_path / "list.ckpt")
    torch.save({"a": Planted(str(tmp_path / "ran"))}, tmp_path / "planted.ckpt")
    with pytest.raises(ValueError, match="nothing in it was run"):
        load_whole(tmp_path / "planted.ckpt")
    assert not (tmp_path / "ran").exists()


def test_a_zip_of_something_else_names_a_whole_checkpoint(tmp_path):
    torch.save({}, tmp_path / "good.ckpt")
    with zipfile.ZipFile(tmp_path / "other.ckpt", "w") as archive:
        archive.writestr("other/readme.txt", "no checkpoint")
    with pytest.raises(ValueError, match=r"other\.ckpt is damaged .*use .*good\.ckpt instead"):
        load_whole(tmp_path / "other.ckpt")
