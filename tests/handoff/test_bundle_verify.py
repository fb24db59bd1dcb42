"""`verify` finds one flipped bit anywhere, and everything else that does not belong in a bundle; it needs no torch."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from bundle_world import SOURCES, World, answerer, export, in_this_process, reader

import medrag_lightning
from medrag_lightning.handoff.bundle import export as exporting
from medrag_lightning.handoff.bundle.json_schema import parse_json_limited, validate
from medrag_lightning.handoff.bundle.sums import faults_of_sums, write_sums
from medrag_lightning.handoff.bundle.verify import check_npy, check_safetensors, verify_bundle

PROTOCOL_2 = b"\x80\x02cos\nsystem\nq\x00."  # the beginning of a pickle that would run something


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A bundle with a file of every kind."""
    folder, patch = tmp_path_factory.mktemp("whole"), pytest.MonkeyPatch()
    patch.setattr(exporting, "ask_in_clean_process", in_this_process)
    world = World(folder)
    export(world, answerer(world, folder, reader(True), SOURCES["knowledge"]()), folder, reader="both", probes=2)
    patch.undo()
    return folder / "bundle"


@pytest.fixture
def bundle(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


def test_a_bundle_as_exported_is_whole(bundle):
    found = verify_bundle(bundle)
    assert found.faults == []
    told = dict(found.inside)
    assert told["class"] == "research tool, not a medical device"
    assert told["evidence"] == "in the bundle"
    assert told["proof"].startswith("2 probe questions")


def test_one_flipped_bit_in_any_file_is_found(bundle):
    rng = np.random.default_rng(0)
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    assert {path.suffix for path in files} >= {
        ".json",
        ".jsonl",
        ".safetensors",
        ".npy",
        ".arrow",
        ".faiss",
        ".png",
        ".key",
        ".md",
    }
    for path in files:
        data = path.read_bytes()
        bits = {0, len(data) * 8 - 1, *rng.integers(len(data) * 8, size=2).tolist()}
        for bit in sorted(bits):
            spoilt = bytearray(data)
            spoilt[bit // 8] ^= 1 << bit % 8
            path.write_bytes(spoilt)
            faults = verify_bundle(bundle).faults
            assert faults, f"bit {bit} of {path.name}"
        path.write_bytes(data)
    assert verify_bundle(bundle).faults == []


def test_every_bit_of_the_sums_themselves_counts(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.json", "b c.md", "sub/d.npy"):
        (tmp_path / name).write_bytes(name.encode())
    write_sums(tmp_path)
    path = tmp_path / "SHA256SUMS"
    data = path.read_bytes()
    assert faults_of_sums(tmp_path) == []
    for bit in range(8 * len(data)):
        spoilt = bytearray(data)
        spoilt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoilt)
        assert faults_of_sums(tmp_path), bit
    up = b"0" * 64 + b"  ../a.json\n"
    for cut in (data[:-1], data + b"\n", data + data.splitlines(keepends=True)[0], b"", data[:70], up + data):
        path.write_bytes(cut)
        assert faults_of_sums(tmp_path)
    path.unlink()
    assert "SHA256SUMS: there is no such file" in faults_of_sums(tmp_path)[0]


def test_missing_added_and_linked_files_are_all_named(bundle):
    (bundle / "reader" / "config.json").unlink()
    (bundle / "extra.json").write_text("{}")
    target = bundle / "reader" / "generation_config.json"
    shutil.move(target, bundle.parent / "elsewhere.json")
    target.symlink_to(bundle.parent / "elsewhere.json")
    (bundle / "images2").symlink_to(bundle / "images")
    told = "\n".join(verify_bundle(bundle).faults)
    for words in ("reader/config.json: missing", "extra.json: not part", "generation_config.json: a link", "images2: not part"):
        assert words in told


@pytest.mark.parametrize("name", ["weights.bin", "model.pt", "a.pkl", "code.py", "last.ckpt", "data.npz", "noname", "a.JSON"])
def test_other_kinds_of_files_are_refused_even_with_right_sums(bundle, name):
    (bundle / name).write_bytes(b"{}")
    write_sums(bundle)
    assert any(f"{name}: a kind of file" in fault for fault in verify_bundle(bundle).faults)


def test_pickles_under_any_name_are_refused_even_with_right_sums(bundle):
    for name in ("a.json", "a.md", "a.arrow", "a.faiss", "a.png", "a.model", "a.key", "a.npy", "a.safetensors", "a.jsonl"):
        (bundle / name).write_bytes(PROTOCOL_2)
        write_sums(bundle)
        assert any(fault.startswith(name) for fault in verify_bundle(bundle).faults), name
        (bundle / name).unlink()
    with zipfile.ZipFile(bundle / "b.txt", "w") as archive:
        archive.writestr("data.pkl", PROTOCOL_2)
    write_sums(bundle)
    assert any("b.txt: a zip archive" in fault for fault in verify_bundle(bundle).faults)


def test_arrays_of_objects_and_of_another_length_are_refused(tmp_path):
    np.save(tmp_path / "good.npy", np.zeros((3, 2), np.float16))
    check_npy(tmp_path / "good.npy")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        check_npy(tmp_path / "objects.npy")
    data = (tmp_path / "good.npy").read_bytes()
    for spoilt in (data + b"0", data[:-1], data[:20], b"\x93NUMPY\x09\x00", data.replace(b"(3, 2)", b"(3, 9)")):
        (tmp_path / "bad.npy").write_bytes(spoilt)
        with pytest.raises(ValueError, match=r"bad\.npy"):
            check_npy(tmp_path / "bad.npy")


def tensors(path, header, body=b"\0" * 8):
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(data)) + data + body)
    return path


def test_headers_of_tensors_that_lie_are_refused(tmp_path):
    path, one = tmp_path / "t.safetensors", {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    check_safetensors(tensors(path, {"__metadata__": {"a": "b"}, "x": one}))
    for header, body in [
        ({"x": {**one, "data_offsets": [0, 4]}}, b"\0" * 8),
        ({"x": {**one, "shape": [2**40]}}, b"\0" * 8),
        ({"x": {**one, "shape": [-2]}}, b"\0" * 8),
        ({"x": {**one, "dtype": "PICKLE"}}, b"\0" * 8),
        ({"x": one, "y": one}, b"\0" * 8),
        ({"x": one}, b"\0" * 9),
        ({"x": {**one, "data_offsets": [8, 16]}}, b"\0" * 16),
        ({"x": one}, b""),
        (b"[]", b""),
        (b'{"x": ' + b"[" * 5000, b""),
        (b'{"x": 1, "x": 2}', b""),
    ]:
        with pytest.raises(ValueError, match=r"t\.safetensors"):
            check_safetensors(tensors(path, header, body))
    path.write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    with pytest.raises(ValueError, match="header says to be"):
        check_safetensors(path)


def test_json_bombs_are_refused_before_they_are_parsed(tmp_path):
    for data, words in [
        (b"[" * 100_000, "nest deeper"),
        (b'{"a": 1, "a": 2}', "stands twice"),
        (b'{"a": NaN}', "NaN"),
        (b"\xff", "not UTF-8"),
        (b'{"a": ', "not valid JSON"),
    ]:
        with pytest.raises(ValueError, match=words):
            parse_json_limited(data, "x.json")
    assert parse_json_limited(json.dumps({"a": "[[" * 500 + '\\"['}).encode(), "x.json")


def test_the_validator_agrees_with_the_reference():
    """Every kind of fault, against the package jsonschema where it is installed."""
    reference = pytest.importorskip("jsonschema")
    from medrag_lightning.handoff.bundle.system import system_schema

    schema = system_schema()
    reference.Draft202012Validator.check_schema(schema)
    parts = {"type": "object", "properties": {"a": {"type": ["integer", "null"], "minimum": 1}}, "required": ["a"]}
    rules = {**parts, "additionalProperties": {"anyOf": [{"const": 1}, {"enum": ["x", True]}, {"$ref": "#/$defs/n"}]}}
    rules["$defs"] = {"n": {"type": "array", "minItems": 2, "items": {"type": "number", "exclusiveMinimum": 0, "maximum": 5}}}
    values = [None, 0, 1, 1.5, True, "x", [], [1], [1, 2], [0, 1], [6, 6], {}, "", ["x", 1]]
    found = 0
    for a in values:
        for b in values:
            value = {"a": a, "b": b}
            mine = not validate(value, rules)
            assert mine == reference.Draft202012Validator(rules).is_valid(value), value
            found += mine
    assert 0 < found < len(values) ** 2
    with pytest.raises(ValueError, match="keyword 'pattern'"):
        validate("x", {"pattern": "x"})


def test_it_needs_no_torch(bundle):
    blocked = ("torch", "transformers", "faiss", "peft", "lightning", "pyarrow", "PIL", "jsonargparse")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        "from medrag_lightning.cli import main\n"
        "main(['verify', sys.argv[2]])\n"
    )
    root = str(Path(medrag_lightning.__file__).parents[1])
    done = subprocess.run([sys.executable, "-I", "-c", code, root, str(bundle)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "whole and unchanged" in done.stdout
    (bundle / "MODEL_CARD.md").write_text("another")
    done = subprocess.run([sys.executable, "-I", "-c", code, root, str(bundle)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "MODEL_CARD.md: changed" in done.stdout
