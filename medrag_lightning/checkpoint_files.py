"""Whether a checkpoint file is whole: it is a zip archive, whose records carry their checksums. Standard library only."""

from __future__ import annotations

import zipfile
from pathlib import Path


def check_whole(path: str | Path) -> None:
    """Raises FileNotFoundError if `path` is missing, ValueError if its bytes are not those that were written."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint not found: {path}")
    fault = find_damage(path)
    if fault:
        whole = newest_whole(path.parent, besides=path)
        remedy = f"use {whole} instead" if whole else "no other whole checkpoint lies beside it"
        raise ValueError(f"checkpoint {path} is damaged ({fault}); {remedy}")


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint file; None if every record matches its CRC-32."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        return f"cut short or not a checkpoint: {error}"
    return f"record {broken} does not match its checksum" if broken else None


def newest_whole(folder: Path, besides: Path) -> Path | None:
    """The newest undamaged ``.ckpt`` in `folder` other than `besides`."""
    others = [path for path in folder.glob("*.ckpt") if path != besides]
    for path in sorted(others, key=lambda p: p.stat().st_mtime_ns, reverse=True):
        if find_damage(path) is None:
            return path
    return None
