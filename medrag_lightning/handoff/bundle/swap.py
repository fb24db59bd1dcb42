"""A finished folder put under its name in one step, also where another one stands there."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import uuid
from pathlib import Path

_AT_FDCWD, _EXCHANGE = -100, 2
_NOT_SUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def working_folder(target: Path) -> Path:
    """A new empty folder beside `target`, hidden, on the same file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    made = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    made.mkdir()
    return made


def put_in_place(made: Path, target: Path, overwrite: bool) -> None:
    """Renames `made` to `target`; an old `target` goes only when the new one stands.

    Raises:
        ValueError: `target` is there and is not to be overwritten.
    """
    refuse_existing(target, overwrite)
    _flush(made)
    if not target.exists():
        made.rename(target)
        _flush_folder(target.parent)
        return
    if not _exchange(made, target):  # no such call here: two renames, and back again if the second fails
        aside = made.with_name(made.name + ".old")
        target.rename(aside)
        try:
            made.rename(target)
        except OSError:
            aside.rename(target)
            raise
        made = aside
    _flush_folder(target.parent)
    shutil.rmtree(made)


def refuse_existing(target: Path, overwrite: bool) -> None:
    """ValueError where `target` is there and is not to be overwritten, or is no folder."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ValueError(f"{target} is there and is no folder; give another --output")
    if target.exists() and not overwrite:
        raise ValueError(f"{target} is there already; give another --output, or --overwrite to replace it")


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names in one step (Linux); False where the system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NOT_SUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(other))


def _flush(folder: Path) -> None:
    """Has every file and folder below, and the folder itself, written to disk; all may be read by whom the umask lets."""
    mask = os.umask(0)
    os.umask(mask)
    for root, _, names in os.walk(folder):
        for name in names:
            (Path(root) / name).chmod(0o666 & ~mask)  # some libraries write files that only their owner may read
            with (Path(root) / name).open("rb") as stream:
                os.fsync(stream.fileno())
        _flush_folder(Path(root))


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
