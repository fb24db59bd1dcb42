import json
import os

import numpy as np
import pytest

from medrag_lightning.artifacts import (
    atomic_write,
    counter_rng,
    fingerprint,
    guard_path,
    read_json,
    sha256_file,
    write_json,
    write_jsonl,
    write_npy,
)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(OSError, match="disk"), atomic_write(path) as stream:  # noqa: PT012
        stream.write(b"half of the new")
        raise OSError("disk full")
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_writers_round_trip(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"a": "ä"}, {"b": 2}])
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text("utf-8").splitlines()] == [{"a": "ä"}, {"b": 2}]
    write_npy(tmp_path / "a.npy", np.arange(3))
    assert np.load(tmp_path / "a.npy").tolist() == [0, 1, 2]


def test_written_files_are_readable_by_others_as_the_umask_says(tmp_path):
    mask = os.umask(0o022)
    try:
        write_json(tmp_path / "a.json", 1)
    finally:
        os.umask(mask)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o644


def test_json_errors_name_file_and_line(tmp_path):
    (tmp_path / "bad.json").write_text('{\n "a": ,\n}')
    with pytest.raises(ValueError, match=r"bad\.json:2"):
        read_json(tmp_path / "bad.json")


def test_not_a_number_is_not_written_as_json(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", float("nan"))
    assert list(tmp_path.iterdir()) == []


def test_fingerprint_tells_order_type_and_shape_apart():
    same = fingerprint("a", 1, np.zeros((2, 3), np.float32))
    assert same == fingerprint("a", 1, np.zeros((2, 3), np.float32))
    others = [
        fingerprint(1, "a", np.zeros((2, 3), np.float32)),
        fingerprint("a", "1", np.zeros((2, 3), np.float32)),
        fingerprint("a", 1, np.zeros((3, 2), np.float32)),
        fingerprint("a", 1, np.zeros((2, 3), np.float16)),
        fingerprint("a1", np.zeros((2, 3), np.float32)),
    ]
    assert len({same, *others}) == 6


def test_sha256_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a").startswith("ba7816bf")


def test_path_guard_follows_links(tmp_path):
    inside, outside = tmp_path / "root", tmp_path / "outside"
    inside.mkdir()
    outside.write_text("secret")
    (inside / "link").symlink_to(outside)
    (inside / "fine").write_text("x")
    assert guard_path(inside / "fine", [inside]) == (inside / "fine").resolve()
    for bad in (inside / "link", inside / ".." / "outside"):
        with pytest.raises(ValueError, match="outside the declared roots"):
            guard_path(bad, [inside])


def test_counter_rng_depends_on_its_parts_alone():
    first = counter_rng(0, "order", 3).random(4)
    np.random.default_rng().random(10)
    assert (first == counter_rng(0, "order", 3).random(4)).all()
    assert (first != counter_rng(0, "order", 4).random(4)).any()
    assert (first != counter_rng(1, "order", 3).random(4)).any()
