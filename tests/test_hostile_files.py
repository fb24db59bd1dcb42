"""Names, JSON, YAML and arrays that mean harm: refused with a reason, and honest ones are not."""

from __future__ import annotations

import gzip
import json
import os
import zipfile

import numpy as np
import pytest

from medrag_lightning.artifacts import file_fault, guard_path, name_fault, read_json
from medrag_lightning.checkpoint_files import load_whole
from medrag_lightning.data import arrays, row_files
from medrag_lightning.models.backbones import Pretrained
from medrag_lightning.yaml_files import MAX_BYTES, compose_yaml


@pytest.mark.parametrize(
    ("name", "why"),
    [("http://a/b.png", "URL"), ("file:/etc/x", "URL"), ("data:,x", "URL"), ("//a/b", "network"), ("\\\\a\\b", "network"),
     ("a\0b", "control"), ("a\tb", "control")],
)  # fmt: skip
def test_hostile_names_have_a_fault(name, why, tmp_path):
    assert why in name_fault(name)
    with pytest.raises(ValueError, match=why):
        guard_path(name, [tmp_path])


@pytest.mark.parametrize(
    "name", ["a.png", "/a/b c.png", "a:b.png", "C:/films/a.png", "études/ü.png", "dataset:12.png", ".hidden"]
)
def test_honest_names_have_none(name):
    assert name_fault(name) is None


def test_what_is_no_plain_file_is_named_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("x")
    assert file_fault(tmp_path / "file") is None
    assert "named pipe" in file_fault(tmp_path / "pipe")
    assert "folder" in file_fault(tmp_path)
    assert "device" in file_fault("/dev/null")
    assert "no such file" in file_fault(tmp_path / "gone")
    with pytest.raises(ValueError, match="named pipe"):
        row_files.read_rows(tmp_path / "pipe")
    with pytest.raises(ValueError, match="named pipe"):
        load_whole(tmp_path / "pipe")


def test_yaml_bombs_are_refused_and_ordinary_aliases_are_not(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: &a [1, 2]\nb: [*a, *a]\nc: {<<: {x: 1}}\n")
    assert compose_yaml(path) is not None
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 7)]
    path.write_text("\n".join(rows))
    with pytest.raises(ValueError, match=r"c\.yaml:\d+: its aliases unfold to more than"):
        compose_yaml(path)
    path.write_text("a: " + "[" * 80 + "]" * 80)
    with pytest.raises(ValueError, match="nested deeper"):
        compose_yaml(path)
    path.write_text("a: &a {b: *a}")
    with pytest.raises(ValueError, match="contains itself"):
        compose_yaml(path)
    path.write_text("# " + "x" * MAX_BYTES)
    with pytest.raises(ValueError, match="more than 4 MiB"):
        compose_yaml(path)


def test_long_lines_and_deep_values_are_bad_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "MAX_LINE_BYTES", 1000)
    good = json.dumps({"id": "a"})
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as stream:
        stream.write(f'{good}\n{{"id": "{"x" * 5000}"}}\n{good}\n')
    rows = list(row_files.read_rows(tmp_path / "a.jsonl.gz"))
    assert [bool(row.problem) for row in rows] == [False, True]
    assert "nothing after it is read" in rows[1].problem
    monkeypatch.undo()
    (tmp_path / "deep.jsonl").write_text('{"id": ' + "[" * 100_000 + "\n" + good + "\n")
    rows = list(row_files.read_rows(tmp_path / "deep.jsonl"))
    assert [bool(row.problem) for row in rows] == [True, False]
    monkeypatch.setattr(row_files, "MAX_JSON_BYTES", 10)
    (tmp_path / "a.json").write_text(f"[{good}, {good}]")
    assert "JSON lines" in next(iter(row_files.read_rows(tmp_path / "a.json"))).problem
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nonsense")
    assert "not a readable parquet" in next(iter(row_files.read_rows(tmp_path / "a.parquet"))).problem


def test_json_that_is_none_names_its_file(tmp_path):
    for content, why in ((b"\x80\x04", "not UTF-8"), (b"[" * 100_000, "nested too deeply"), (b"{", "not valid JSON")):
        (tmp_path / "m.json").write_bytes(content)
        with pytest.raises(ValueError, match=rf"m\.json.*{why}"):
            read_json(tmp_path / "m.json")


def test_a_header_that_claims_much_is_not_read(tmp_path):
    noise = np.random.default_rng(0).bytes(200_000)  # does not pack, so that the ratio is that of an honest array
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", b"\x93NUMPY\x02\x00" + (1 << 31).to_bytes(4, "little") + noise)
    with pytest.raises(ValueError, match="claims a header of"):
        arrays.read_headers(tmp_path / "a.npz")
    np.savez_compressed(tmp_path / "zeros.npz", images=np.zeros((70, 1024, 1024), np.uint8))
    with pytest.raises(ValueError, match="a bomb, or an array of almost nothing"):
        arrays.read_array(tmp_path / "zeros.npz", "images")
    np.savez_compressed(tmp_path / "small.npz", images=np.zeros((4, 64, 64), np.uint8))
    assert arrays.read_array(tmp_path / "small.npz", "images").shape == (4, 64, 64)


def test_remote_code_needs_the_whole_commit():
    for revision in (None, "main", "v1.0", "abc123"):
        with pytest.raises(ValueError, match="all 40 digits"):
            Pretrained("someone/model", trust_remote_code=True, revision=revision)
    assert Pretrained("someone/model", trust_remote_code=True, revision="0123456789" * 4).trust_remote_code
