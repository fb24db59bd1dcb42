"""A disk that fails, or a process that is killed, at the n-th call of a kind below one folder. In this process, for speed."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from pathlib import Path

KINDS = ("open", "write", "fsync", "allocate", "rename", "mkdir", "chmod", "remove")
ERRORS = {
    "open": (errno.EACCES, errno.ENOSPC, errno.EMFILE, errno.EROFS),
    "write": (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG),
    "fsync": (errno.EIO, errno.ENOSPC, errno.EDQUOT),
    "allocate": (errno.ENOSPC, errno.EDQUOT),
    "rename": (errno.EACCES, errno.EIO),
    "mkdir": (errno.ENOSPC, errno.EROFS),
    "chmod": (errno.EPERM,),
    "remove": (errno.EACCES, errno.EROFS),
}
AUDITED = {"open": "open", "os.rename": "rename", "os.mkdir": "mkdir", "os.chmod": "chmod", "os.remove": "remove"}
_real = {"fsync": os.fsync, "fdopen": os.fdopen, "open": Path.open, "posix_fallocate": getattr(os, "posix_fallocate", None)}
_active: BrokenDisk | None = None
_hooked = False


class BrokenDisk:
    """While it is entered, the `number`-th call of `kind` below `folder` fails (a failing write has written half of its bytes).

    Args:
        folder: calls elsewhere are left alone.
        kind: of `KINDS`; None counts all of them together.
        number: counted from 1; 0 never fails and only counts.
        lasting: later calls fail, too, other than removing.
        kill: SIGKILL for this process instead of an error.
    """

    def __init__(self, folder: Path, kind: str | None, number: int, lasting: bool = False, kill: bool = False) -> None:
        self.folder, self.kind, self.number, self.lasting, self.kill = str(folder), kind, number, lasting, kill
        self.count, self.hit = 0, ""

    def __enter__(self) -> BrokenDisk:
        global _active, _hooked
        if not _hooked:
            sys.addaudithook(_audit)
            _hooked = True
        _active = self
        os.fsync, os.fdopen, Path.open = _fsync, _fdopen, _path_open
        if _real["posix_fallocate"]:
            os.posix_fallocate = _fallocate
        return self

    def __exit__(self, *_: object) -> None:
        global _active
        _active = None
        os.fsync, os.fdopen, Path.open = _real["fsync"], _real["fdopen"], _real["open"]
        if _real["posix_fallocate"]:
            os.posix_fallocate = _real["posix_fallocate"]

    def concerns(self, path: object) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(self.folder)

    def reach(self, kind: str, half: io.FileIO | None = None, data: bytes = b"") -> None:
        """One call; raises where it is to fail."""
        if self.kind not in (None, kind):
            return
        self.count += 1
        again = self.lasting and kind != "remove" and self.hit
        if self.count != self.number and not again:
            return
        self.hit = self.hit or f"{kind} number {self.count}"
        if half is not None:
            io.FileIO.write(half, data[: len(data) // 2])
        if self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        number = ERRORS[kind][self.number % len(ERRORS[kind])]
        raise OSError(number, os.strerror(number))


def _audit(event: str, arguments: tuple) -> None:
    disk = _active
    if disk is None or event not in AUDITED or not disk.concerns(arguments[0]):
        return
    if event == "open" and not int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return
    disk.reach(AUDITED[event])


def _path_of(handle: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{handle}").readlink())
    except OSError:
        return ""


def _fsync(handle: int) -> None:
    if _active is not None and _active.concerns(_path_of(handle)):
        _active.reach("fsync")
    _real["fsync"](handle)


def _fallocate(handle: int, offset: int, size: int) -> None:
    if _active is not None and _active.concerns(_path_of(handle)):
        _active.reach("allocate")
    _real["posix_fallocate"](handle, offset, size)


class _Raw(io.FileIO):
    """A file whose writes are counted."""

    def write(self, data) -> int:
        if _active is not None:
            _active.reach("write", self, bytes(data))
        return super().write(data)


def _fdopen(handle: int, mode: str = "r", *arguments, encoding: str | None = None, **named):
    if _active is None or not _active.concerns(_path_of(handle)) or "r" in mode:
        return _real["fdopen"](handle, mode, *arguments, encoding=encoding, **named)
    return _dressed(_Raw(handle, "w"), mode, encoding, None)


def _path_open(self, mode="r", buffering=-1, encoding=None, errors=None, newline=None):
    if _active is None or not _active.concerns(self) or "r" in mode:
        return _real["open"](self, mode, buffering, encoding, errors, newline)
    return _dressed(_Raw(str(self), mode.replace("b", "").replace("t", "")), mode, encoding, newline)


def _dressed(raw: _Raw, mode: str, encoding: str | None, newline: str | None):
    buffered = io.BufferedWriter(raw)
    return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding or "utf-8", newline=newline)
