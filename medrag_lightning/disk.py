"""Files under way: a locked temporary file beside the final one, and what it means when a disk refuses to take them."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SUFFIX = ".medrag.tmp"
ELSEWHERE = "or write elsewhere (--trainer.default_root_dir for a run, --data.init_args.cache_folder for evidence)"
REMEDIES = {
    errno.ENOSPC: ("the disk is full", f"free space there, {ELSEWHERE}"),
    errno.EDQUOT: ("your disk quota is used up", f"free space or have it raised (`quota -s` tells it), {ELSEWHERE}"),
    errno.EFBIG: ("the file would be larger than is allowed", f"raise the limit (`ulimit -f unlimited`), {ELSEWHERE}"),
    errno.EROFS: ("the disk is mounted read-only", f"mount it for writing, {ELSEWHERE}"),
    errno.EACCES: ("permission denied", f"give yourself the right (`ls -ld` on it tells whose it is), {ELSEWHERE}"),
    errno.EPERM: ("not permitted", f"give yourself the right (`ls -ld` on it tells whose it is), {ELSEWHERE}"),
    errno.EIO: ("the disk reports an input/output error", f"look at `dmesg` and have the disk replaced, {ELSEWHERE}"),
    errno.EMFILE: ("too many files are open", "raise the limit (`ulimit -n 65536`), or use fewer loader processes"),
    errno.ENFILE: ("too many files are open on this machine", "end other programs, or ask for a higher limit"),
    errno.ESTALE: ("the network disk has lost the file", "mount it anew and run the same command again"),
}
"""What the system's refusals mean, and what helps."""
_swept: set[tuple[int, Path]] = set()


class DiskError(OSError):
    """A file could not be written or read for a reason outside this program; the message says what helps."""

    def __init__(self, number: int, path: str | Path) -> None:
        meaning, remedy = REMEDIES[number]
        super().__init__(number, meaning, str(path))
        self.remedy = remedy

    def __reduce__(self) -> tuple[Any, ...]:
        return DiskError, (self.errno, self.filename)

    def __str__(self) -> str:
        free = _free(Path(str(self.filename))) if self.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return f"cannot write {self.filename}: {self.strerror}{free}; {self.remedy}. What was there before is untouched"


def disk_fault(error: BaseException, path: str | Path) -> DiskError | None:
    """The refusal of the disk behind an exception, with its remedy; None where there is another reason.

    Args:
        error: what was raised; its causes are looked at, too, for libraries that hide the first one behind their own.
        path: what was being written, where the system does not say.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, DiskError):
            return seen
        if isinstance(seen, OSError) and seen.errno in REMEDIES:
            return DiskError(seen.errno, path if seen.filename is None or _is_ours(seen.filename) else seen.filename)
        seen = seen.__cause__ or seen.__context__
    return None


@contextmanager
def refusals_told(path: str | Path) -> Iterator[None]:
    """Turns the disk's refusals while `path` is written into a `DiskError`; everything else passes as it is."""
    try:
        yield
    except Exception as error:
        fault = disk_fault(error, path)
        if fault is None or fault is error:
            raise
        raise fault from error


class Unfinished:
    """A new, empty, locked file that is to replace `path` in one step.

    The lock tells a file that is being written from one that a killed process has left; the latter are removed when the next
    file is written to the same folder. `handle` is the open descriptor, `temporary` the file's name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with refusals_told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep(path.parent)
            while True:
                self.handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=SUFFIX)
                self.temporary = Path(name)
                if not _lock(self.handle) or self._is_there():
                    return
                os.close(self.handle)  # swept by another process before it was locked

    def finish(self) -> None:
        """Flushes the file to disk and gives it its name. The descriptor stays open."""
        os.fsync(self.handle)
        self.temporary.chmod(0o666 & ~_umask())
        self.temporary.replace(self.path)
        _fsync_folder(self.path.parent)

    def discard(self) -> None:
        """Removes the file, if it still bears its temporary name; quiet, because a failure was told already."""
        with suppress(OSError):
            self.temporary.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the descriptor and so gives the lock back; it may have been closed by who wrote through it."""
        with suppress(OSError):
            os.close(self.handle)

    def _is_there(self) -> bool:
        try:
            return self.temporary.stat().st_ino == os.fstat(self.handle).st_ino
        except FileNotFoundError:
            return False


def sweep(folder: Path) -> None:
    """Removes the temporary files that killed processes have left in `folder`; looks once a process and folder."""
    if (os.getpid(), folder) in _swept:
        return
    _swept.add((os.getpid(), folder))
    for left in folder.glob(f".*{SUFFIX}"):
        with suppress(OSError):  # gone meanwhile, or not ours
            handle = os.open(left, os.O_RDWR)
            try:
                if _lock(handle):
                    left.unlink(missing_ok=True)
            finally:
                os.close(handle)


def _lock(handle: int) -> bool:
    """Whether this process now holds the file; False, too, on a file system without locks."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_ours(filename: object) -> bool:
    return str(filename).endswith(SUFFIX)


def _free(path: Path) -> str:
    for folder in path.parents:
        if folder.is_dir():
            free = shutil.disk_usage(folder).free
            return f" ({free / 2**20:,.0f} MiB free in {folder})"
    return ""


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _fsync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
