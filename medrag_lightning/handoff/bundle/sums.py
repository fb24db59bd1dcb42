"""SHA256SUMS of a folder: every file in it, none besides, as ``sha256sum -c`` reads them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from medrag_lightning.artifacts import atomic_write, sha256_file
from medrag_lightning.handoff.bundle.layout import SUMS

_LINE = re.compile(r"([0-9a-f]{64})  ([^\x00-\x1f\x7f\\]+)")
_MOST_BYTES = 64 << 20


def write_sums(folder: Path) -> None:
    """Writes ``SHA256SUMS`` over every other file below `folder`."""
    lines = [f"{sha256_file(folder / name)}  {name}\n" for name in sorted(files_below(folder)) if name != SUMS]
    with atomic_write(folder / SUMS, "w") as stream:
        stream.writelines(lines)


def read_sums(folder: Path) -> dict[str, str]:
    """The sums by file; ValueError with the line where the file is not exactly as `write_sums` writes it."""
    path = folder / SUMS
    if path.is_symlink() or not path.is_file():
        raise ValueError(f"{path}: there is no such file; {folder} is no bundle, or was not copied whole")
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path} has more than {_MOST_BYTES} bytes, which no bundle needs")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text: {error.reason}; export the bundle again") from error
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n")[:-1], 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"{path}:{number}: not a sum and a file name; export the bundle again")
        name = match[2]
        if name.startswith("/") or ".." in name.split("/") or name in found:
            raise ValueError(f"{path}:{number}: a file name that leaves the folder or stands twice; export the bundle again")
        found[name] = match[1]
    if not text.endswith("\n") or list(found) != sorted(found):
        raise ValueError(f"{path}: its last line is cut off, or its lines are out of order; export the bundle again")
    return found


def faults_of_sums(folder: Path) -> list[str]:
    """In words, every file that is missing, changed, or there without a sum, and every link; empty for a whole folder."""
    try:
        told = read_sums(folder)
    except ValueError as error:
        return [str(error)]
    there, faults = set(files_below(folder)), []
    for name, digest in told.items():
        path = folder / name
        if name not in there:
            faults.append(f"{name}: missing")
        elif path.is_symlink() or not path.is_file():
            faults.append(f"{name}: a link or a special file; a bundle holds plain files only")
        elif sha256_file(path) != digest:
            faults.append(f"{name}: changed: its sha256 is not that of {SUMS}")
    return faults + [f"{name}: not part of the bundle: {SUMS} does not name it" for name in sorted(there - {*told, SUMS})]


def files_below(folder: Path) -> Iterator[str]:
    """Names of all files (and links) below a folder, relative to it; links are not followed."""
    for root, folders, names in os.walk(folder):
        for name in [*names, *(one for one in folders if (Path(root) / one).is_symlink())]:
            yield (Path(root) / name).relative_to(folder).as_posix()
