"""Files that survive: the one atomic writer, fingerprints, manifests and the path guard."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np

from medrag_lightning.disk import Unfinished, refusals_told

CHUNK_BYTES = 1 << 20
TOO_DEEP = "lists or objects are nested too deeply to be read; no file of ours is"
DIGEST = "digest"


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Opens a temporary file beside `path`; on a clean exit it is flushed to disk and renamed to `path` in one step.

    A crash, a full disk or an exception leaves the old file (or none) under `path`, never half of a new one. `DiskError` says
    what the disk refused and what helps; temporary files of killed processes are removed.
    """
    path = Path(path)
    with refusals_told(path):
        new = Unfinished(path)
        try:
            with os.fdopen(new.handle, mode, encoding=None if "b" in mode else "utf-8") as stream:
                yield stream
                stream.flush()
                new.finish()
        except BaseException:
            new.discard()
            raise


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes `data` to `path` atomically."""
    with atomic_write(path) as stream:
        stream.write(data)


def write_json(path: str | Path, data: Any) -> None:
    """Writes `data` as indented JSON, atomically, keys in the given order."""
    with atomic_write(path, "w") as stream:
        json.dump(data, stream, indent=2, ensure_ascii=False, allow_nan=False)
        stream.write("\n")


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line, atomically."""
    with atomic_write(path, "w") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def write_npy(path: str | Path, array: np.ndarray[Any, Any]) -> None:
    """Writes `array` as ``.npy``, atomically; no pickled objects."""
    with atomic_write(path) as stream:  # given a real file, numpy writes past it and does not tell what the disk refused
        np.lib.format.write_array(SimpleNamespace(write=stream.write), np.asanyarray(array), allow_pickle=False)


def read_json(path: str | Path) -> Any:
    """Reads JSON. ValueError names the file and the line of a syntax error."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not JSON text (not UTF-8)") from error
    except RecursionError as error:
        raise ValueError(f"{path}: {TOO_DEEP}") from error


def write_manifest(path: str | Path, data: Mapping[str, Any]) -> None:
    """Writes JSON that carries its own digest, so that `read_manifest` knows every change of it."""
    write_json(path, {**data, DIGEST: fingerprint(_plain(data))})


def read_manifest(path: str | Path, remedy: str) -> dict[str, Any]:
    """What `write_manifest` wrote, without the digest. ValueError, with `remedy`, for any other bytes.

    A file of an earlier version, without a digest, is read as it is.
    """
    try:
        data = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; {remedy}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} is damaged: no mapping; {remedy}")
    digest = data.pop(DIGEST, None)
    if digest is not None and digest != fingerprint(data):
        raise ValueError(f"{path} is damaged: not what was written; {remedy}")
    return data


def free_name(name: str, taken: Iterable[str]) -> str:
    """`name`, or, where a finished manifest names a file so, another: the old file stays until the new manifest is there."""
    stem, _, kind = name.partition(".")
    return f"{stem}.next.{kind}" if name in set(taken) else name


def sha256_file(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def fingerprint(*parts: Any) -> str:
    """Hex sha256 over any mixture of bytes, arrays, text and JSON-able values. Order matters; types are kept apart."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, bytes | memoryview):
            tag, data = b"b", bytes(part)
        elif isinstance(part, np.ndarray):
            tag, data = f"a{part.dtype.str}{part.shape}".encode(), np.ascontiguousarray(part).tobytes()
        else:
            tag, data = b"j", json.dumps(part, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
        digest.update(len(tag).to_bytes(8, "big") + tag + len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def guard_path(path: str | Path, roots: Sequence[str | Path]) -> Path:
    """Gives `path` resolved, or raises ValueError unless it lies under one of `roots` (symbolic links followed)."""
    if fault := name_fault(str(path)):
        raise ValueError(f"{str(path)[:80]!r} {fault}")
    resolved = Path(path).resolve()
    allowed = [Path(root).resolve() for root in roots]
    if not any(resolved.is_relative_to(root) for root in allowed):
        listed = ", ".join(map(str, allowed)) or "none"
        raise ValueError(f"{path} lies outside the declared roots ({listed}); declare its folder as a root to allow it")
    return resolved


def name_fault(path: str) -> str | None:
    """Why `path` is no name of a file that may be opened, in words that follow the name; None if it is."""
    if "\0" in path or any(ord(letter) < 32 or ord(letter) == 127 for letter in path):
        return "holds a control character; give the name of a file"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/{1,2}|data:", path):  # one letter before the colon is a drive
        return "is a URL; nothing is ever fetched: download it and name the file"
    if path.startswith(("\\\\", "//")):
        return "is a network path; copy the file to a local folder and name it there"
    return None


def file_fault(path: str | Path) -> str | None:
    """Why `path` is not a plain file, in words that follow the name; None if it is. Opens nothing: a named pipe would hang."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return "is not there: no such file"
    if stat.S_ISREG(mode):
        return None
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return f"is {kinds.get(stat.S_IFMT(mode), 'a device')}, not a file"


def _plain(data: Any) -> Any:
    """`data` as it is once written to JSON and read again: tuples are lists, keys are text."""
    return json.loads(json.dumps(data, ensure_ascii=False, allow_nan=False))


def counter_rng(seed: int, *parts: int | str) -> np.random.Generator:
    """A generator that depends on (seed, parts) alone: the same epoch, sample and purpose always draw the same numbers.

    This is the only source of randomness in data code, so a resumed run repeats nothing and any number of workers agrees.
    """
    digest = hashlib.sha256(json.dumps([seed, *parts]).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))
