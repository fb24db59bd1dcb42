"""A disk that is really full, a quota and a folder that cannot be written to: told by the system itself, not by a stand-in."""

import gc
import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest
from drills import Clean, Outcome, message_faults
from written_things import THINGS

from medrag_lightning.disk import DiskError

GROWS = [thing for thing in THINGS if thing.name not in ("step record", "results")]  # of more than a few bytes


@contextmanager
def largest_file(size_bytes: int):
    """The system refuses to grow any file further, also one that is mapped or written by a library's own code."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("thing", GROWS, ids=[thing.name for thing in GROWS])
def test_no_file_may_grow_beyond_a_size(thing, world, record_property):
    clean, outcome = Clean(thing, world), Outcome()
    largest = max(path.stat().st_size for path in world.rglob("*") if path.is_file())
    for share in (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95):
        clean.fresh()
        told = None
        try:
            with largest_file(int(share * largest)):
                thing.change(world)
        except Exception as error:  # noqa: BLE001  (which one it is, is looked at)
            told = error
        outcome.note(f"{thing.name} at {share}", message_faults(told, clean) + clean.faults_after(litter_allowed=False))
    record_property("drill", ("full disk", outcome.passed, outcome.tried))
    assert not outcome.wrong, "\n".join(outcome.wrong)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 512 KiB; needs the right to mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "drill", str(place)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no right to mount a small disk: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount command")
@pytest.mark.parametrize("thing", THINGS, ids=[thing.name for thing in THINGS])
def test_a_full_and_a_read_only_disk(thing, small_disk, record_property):
    world = small_disk / "world"
    clean, outcome = Clean(thing, world), Outcome()
    for free_kib in (0, 4, 8, 16):
        clean.fresh()
        told, filler = None, small_disk / "filler"
        usage = os.statvfs(small_disk)
        filler.write_bytes(b"x" * max(0, usage.f_bavail * usage.f_frsize - free_kib * 1024))
        try:
            thing.change(world)
        except Exception as error:  # noqa: BLE001
            told = error
        filler.unlink()
        outcome.note(f"{thing.name}, {free_kib} KiB free", message_faults(told, clean) + clean.faults_after(False))
    clean.fresh()
    told = None
    gc.collect()  # what a failed build had mapped for writing
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(DiskError, match="mounted read-only; mount it for writing, or write elsewhere"):
        thing.change(world)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    outcome.note(f"{thing.name}, read-only", clean.faults_after(False))
    record_property("drill", ("full disk", outcome.passed, outcome.tried))
    assert not outcome.wrong, "\n".join(outcome.wrong)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("thing", THINGS, ids=[thing.name for thing in THINGS])
def test_a_folder_without_permission(thing, world):
    clean = Clean(thing, world)
    clean.fresh()
    for folder in (world, *(path for path in world.rglob("*") if path.is_dir())):
        folder.chmod(0o555)
    with pytest.raises(DiskError, match="permission denied; give yourself the right"):
        thing.change(world)
    for folder in (world, *(path for path in world.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    assert not clean.faults_after(False)


def test_the_command_says_it_in_one_line():
    """Exit code 2, no traceback, a remedy."""
    program = (
        "import errno\n"
        "from medrag_lightning.cli.outcome import user_errors\n"
        "with user_errors('fit'):\n"
        "    raise OSError(errno.ENOSPC, 'No space left on device', '/data/runs/x')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot write /data/runs/x: the disk is full")
    assert "free space there, or write elsewhere (--trainer.default_root_dir" in done.stderr
    assert "Traceback" not in done.stderr
