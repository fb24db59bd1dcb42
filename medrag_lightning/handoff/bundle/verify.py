"""Whether a bundle is whole, unchanged, and holds nothing that could run. Needs no GPU and no torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medrag_lightning.artifacts import sha256_file
from medrag_lightning.handoff.bundle import layout
from medrag_lightning.handoff.bundle.guarantee import faults_of_calibration
from medrag_lightning.handoff.bundle.json_schema import parse_json_limited, read_json_limited, validate
from medrag_lightning.handoff.bundle.sqlite_file import check_sqlite
from medrag_lightning.handoff.bundle.sums import faults_of_sums, files_below

SUFFIXES = frozenset(
    ".json .jsonl .jinja .md .txt .model .safetensors .npy .arrow .faiss .sqlite .onnx .png .key".split()  # noqa: SIM905
)
_HEAD_BYTES = 8
_MOST_HEADER_BYTES = 100_000_000  # safetensors' own limit
_MOST_LINE_BYTES = 1 << 20
_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1}
_RUNS = {b"PK\x03\x04": "a zip archive", b"\x7fELF": "a program", b"#!": "a script"}


@dataclass(frozen=True, slots=True)
class Verified:
    """Every fault in words (none: whole), and what is inside as rows of a table."""

    faults: list[str]
    inside: list[tuple[str, str]]


def verify_bundle(folder: str | Path, corpus: str | Path | None = None) -> Verified:
    """Looks at every file of a bundle, and of its corpus where that lies elsewhere.

    Sums in both directions (changed, missing, not named), links, kinds of files, JSON against its schema, headers of tensors
    and arrays. It tells of damage and of tampering by someone who did not write the sums anew; it is no signature.

    Args:
        folder: the bundle.
        corpus: where the evidence lies if the bundle only points to it; null for ``NAME-corpus`` beside it. Where it is not
            there, that is a row of `inside`, no fault, unless a place was given.
    """
    bundle = Path(folder)
    if not bundle.is_dir():
        return Verified([f"{bundle} is not a folder"], [])
    faults = faults_of_sums(bundle) + faults_of_files(bundle)
    faults += [f"{name}: missing" for name in layout.NEEDED if not (bundle / name).is_file() and name != layout.SUMS]
    inside: list[tuple[str, str]] = []
    if not faults:
        faults += _faults_of_settings(bundle)
    if not faults:
        inside = _inside(bundle)
        more, where = _corpus(bundle, corpus)
        faults += more
        inside += where
    return Verified(sorted(set(faults)), inside)


def faults_of_files(folder: Path) -> list[str]:
    """What is wrong with each file by its kind and its header."""
    faults = []
    for name in sorted(files_below(folder)):
        path = folder / name
        if name == layout.SUMS or path.is_symlink() or not path.is_file():
            continue
        if path.suffix not in SUFFIXES:
            faults.append(f"{name}: a kind of file that bundles do not hold ({', '.join(sorted(SUFFIXES))})")
            continue
        try:
            _check_file(path)
        except ValueError as error:
            faults.append(str(error).replace(f"{folder}/", ""))
    return faults


def check_safetensors(path: Path) -> None:
    """ValueError unless the header's length, types, shapes and offsets are those of the bytes that follow it, and no others."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
        length = struct.unpack("<Q", head)[0] if len(head) == _HEAD_BYTES else size
        if length > min(size - _HEAD_BYTES, _MOST_HEADER_BYTES):
            raise ValueError(f"{path}: its header says to be {length} bytes long, in a file of {size}")
        told = parse_json_limited(stream.read(length), str(path))
    if not isinstance(told, dict):
        raise ValueError(f"{path}: its header is no object")
    spans = sorted(_span(path, name, one) for name, one in told.items() if name != "__metadata__")
    end = 0
    for first, last in spans:
        if first != end:
            raise ValueError(f"{path}: its tensors overlap or leave gaps at byte {end}")
        end = last
    if end != size - _HEAD_BYTES - length:
        raise ValueError(f"{path}: its tensors end at byte {end}, the file at {size - _HEAD_BYTES - length}")


def check_npy(path: Path) -> None:
    """ValueError unless it is an array of plain numbers and exactly as long as its header says."""
    try:
        with path.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
            shape, _, dtype = read(stream, max_header_size=10_000)
            start = stream.tell()
    except (ValueError, KeyError, SyntaxError) as error:
        raise ValueError(f"{path}: no array that can be read: {error}") from error
    if dtype.hasobject:
        raise ValueError(f"{path}: an array of Python objects, which loading would run; bundles hold numbers only")
    if start + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize != path.stat().st_size:
        raise ValueError(f"{path}: {path.stat().st_size} bytes are not those of an array {shape} of {dtype}")


def _check_file(path: Path) -> None:
    with path.open("rb") as stream:
        head = stream.read(4)
    runs = next((what for magic, what in _RUNS.items() if head.startswith(magic)), None)
    if runs is None and path.suffix != ".npy" and head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        runs = "a pickle"
    if runs is not None and path.suffix not in (".safetensors", ".onnx"):
        raise ValueError(f"{path}: {runs} under another name; bundles hold none")
    if path.suffix == ".json":
        read_json_limited(path)
    elif path.suffix == ".jsonl":
        _check_jsonl(path)
    elif path.suffix == ".safetensors":
        check_safetensors(path)
    elif path.suffix == ".npy":
        check_npy(path)
    elif path.suffix == ".sqlite":
        check_sqlite(path)


def _check_jsonl(path: Path) -> None:
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(_MOST_LINE_BYTES + 1):
            number += 1
            if len(line) > _MOST_LINE_BYTES:
                raise ValueError(f"{path}:{number}: a line of more than {_MOST_LINE_BYTES} bytes")
            if not isinstance(parse_json_limited(line, f"{path}:{number}"), dict):
                raise ValueError(f"{path}:{number}: not a JSON object")


def _span(path: Path, name: str, one: Any) -> tuple[int, int]:
    try:
        first, last = one["data_offsets"]
        shape, width = one["shape"], _WIDTHS[one["dtype"]]
        count = 1
        for side in shape:
            count *= side
        good = all(type(n) is int and n >= 0 for n in (first, last, *shape)) and last - first == count * width
    except (TypeError, KeyError, ValueError):
        good = False
    if not good:
        raise ValueError(f"{path}: tensor {name[:60]!r} has no type, shape and place that fit together")
    return first, last


def _faults_of_settings(bundle: Path) -> list[str]:
    try:
        told = read_json_limited(bundle / layout.BUNDLE)
        schema = told.get("schema") if isinstance(told, dict) else None
        if schema != layout.SCHEMA:
            return [f"{layout.BUNDLE}: schema {schema!r} is not {layout.SCHEMA}; use the version of medrag_lightning it names"]
        settings, rules = read_json_limited(bundle / layout.SYSTEM), read_json_limited(bundle / layout.SYSTEM_SCHEMA)
        faults = validate(settings, rules) or faults_of_calibration(settings)
        return [f"{layout.SYSTEM}: {fault}" for fault in faults]
    except ValueError as error:
        return [str(error)]


def _corpus(bundle: Path, corpus: str | Path | None) -> tuple[list[str], list[tuple[str, str]]]:
    if not (bundle / layout.POINTER).is_file():
        return [], [("evidence", "in the bundle")]
    pointer = read_json_limited(bundle / layout.POINTER)
    root = bundle.with_name(bundle.name + layout.CORPUS_SUFFIX) if corpus is None else Path(corpus)
    if not (root / layout.SUMS).is_file():
        what = f"not at {root}; {pointer['documents']} documents, fingerprint {pointer['fingerprint'][:12]}"
        return ([f"the evidence is {what}"] if corpus is not None else []), [("evidence", what)]
    faults = [f"{root.name}/{fault}" for fault in faults_of_sums(root) + faults_of_files(root)]
    if sha256_file(root / layout.SUMS) != pointer["sums_sha256"]:
        faults.append(f"{root}: another corpus than the one that this bundle was exported with; mount that one")
    return faults, [("evidence", f"at {root}")]


def _inside(bundle: Path) -> list[tuple[str, str]]:
    told: Mapping[str, Any] = read_json_limited(bundle / layout.BUNDLE)
    parity, rows = told.get("parity", {}), [("class", str(told.get("class"))), ("written", str(told.get("created_utc")))]
    rows += [("version", str(told.get("version")))]
    rows += [(str(name), value if isinstance(value, str) else json.dumps(value)) for name, value in told["inside"].items()]
    rows += [(f"fingerprint of {name}", str(value)[:16]) for name, value in told["fingerprints"].items()]
    if parity:
        most = f"{parity['max_abs_delta_logp_nats']:.1e} nats (allowed {parity['tolerance_nats']:.0e})"
        rows.append(("proof", f"{parity['probes']} probe questions, answers equal, log-probabilities within {most}"))
    files = list(files_below(bundle))
    size = sum((bundle / name).stat().st_size for name in files)
    return [*rows, ("size", f"{len(files)} files, {size / 1e6:.1f} MB")]
