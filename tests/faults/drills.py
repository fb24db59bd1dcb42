"""The drills: one thing is written while the disk fails, or the process is killed, at every point; what was there must stay."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from broken_disk import KINDS, BrokenDisk

from medrag_lightning import disk

LIMIT_SECONDS = 60
State = Hashable


@dataclass(frozen=True)
class Thing:
    """Something that is written. Add one to `written_things.THINGS` and every drill is done with it.

    Attributes:
        name: of the thing.
        begin: puts the old one into an empty folder.
        steps: write the new one, one after the other; each must leave a state of its own or the last one.
        state: reads what is there, as a user would; raises where it cannot.
    """

    name: str
    begin: Callable[[Path], None]
    steps: Sequence[Callable[[Path], None]]
    state: Callable[[Path], State]

    def change(self, folder: Path) -> None:
        for step in self.steps:
            step(folder)


@dataclass
class Outcome:
    """How many drills were tried, and what went wrong in which."""

    tried: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def passed(self) -> int:
        return self.tried - len(self.wrong)

    def note(self, where: str, faults: Sequence[str]) -> None:
        self.tried += 1
        if faults:
            self.wrong.append(f"{where}: {'; '.join(faults)}")


class Clean:
    """What an undisturbed run does: the states on the way, and the names of the files at its end."""

    def __init__(self, thing: Thing, folder: Path) -> None:
        self.thing, self.folder = thing, folder
        thing.begin(folder)
        self.states = [thing.state(folder)]
        for step in thing.steps:
            step(folder)
            self.states.append(thing.state(folder))
        self.names = names(folder)
        self.number = 0

    def fresh(self) -> Path:
        """A folder with the old one in it."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        self.thing.begin(self.folder)
        disk._swept.clear()
        return self.folder

    def faults_after(self, litter_allowed: bool) -> list[str]:
        """What is wrong with the folder as a failure has left it; then the change is made again."""
        found, folder = [], self.folder
        try:
            if self.thing.state(folder) not in self.states:
                found.append("another state than before, after or between")
        except Exception as error:  # noqa: BLE001  (whatever it is, the old one is lost)
            found.append(f"no longer loadable: {error!r}")
        litter = [name for name in names(folder) if ".tmp" in name]
        if litter and not litter_allowed:
            found.append(f"litter {litter}")
        disk._swept.clear()  # as in the process that comes next
        try:
            self.thing.change(folder)
            if self.thing.state(folder) != self.states[-1]:
                found.append("the second attempt gives something else")
        except Exception as error:  # noqa: BLE001
            found.append(f"the second attempt fails: {error!r}")
        if extra := {_plain(name) for name in names(folder)} - {_plain(name) for name in self.names}:
            found.append(f"left behind: {sorted(extra)}")
        return found


def fail_everywhere(thing: Thing, folder: Path, lasting: bool, kinds: Sequence[str] = KINDS) -> Outcome:
    """An error at every call of every kind; `lasting`: and at all calls of that kind after it."""
    clean, outcome = Clean(thing, folder), Outcome()
    for kind in kinds:
        number = 1
        while True:
            clean.fresh()
            broken, told = BrokenDisk(folder, kind, number, lasting), None
            try:
                with broken:
                    thing.change(folder)
            except Exception as error:  # noqa: BLE001  (which one it is, is looked at)
                told = error
            if not broken.hit:
                break
            faults = message_faults(told, clean) + clean.faults_after(litter_allowed=kind == "remove")
            outcome.note(f"{thing.name}, {broken.hit}{' and on' if lasting else ''}", faults)
            number += 1
    return outcome


def kill_everywhere(thing: Thing, folder: Path, stride: int = 1) -> Outcome:
    """SIGKILL at every (`stride`-th) call of any kind, in a child process."""
    clean, outcome = Clean(thing, folder), Outcome()
    number = 1
    while True:
        clean.fresh()
        status = in_a_child(lambda number=number: _change_and_die(thing, folder, number))
        if status == 0:
            return outcome
        where = f"{thing.name}, killed at call {number}"
        faults = [] if status == signal.SIGKILL else [f"the child ended with status {status}"]
        outcome.note(where, faults + clean.faults_after(litter_allowed=True))
        number += stride


def message_faults(error: BaseException | None, clean: Clean) -> list[str]:
    """What is wrong with how a failure was told. What was done in spite of it need not be told."""
    if error is None:
        return [] if clean.thing.state(clean.folder) == clean.states[-1] else ["the failure was not told"]
    return [] if isinstance(error, disk.DiskError) and error.remedy in str(error) else [f"told without a remedy: {error!r}"]


def in_a_child(work: Callable[[], None]) -> int:
    """Runs `work` in a forked process; gives its wait status, and ends one that hangs."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001  (a forked child must never return into pytest)
            os._exit(3)
        os._exit(0)
    until = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.002)
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    return -1


def names(folder: Path) -> set[str]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _change_and_die(thing: Thing, folder: Path, number: int) -> None:
    with BrokenDisk(folder, None, number, kill=True):
        thing.change(folder)


def _plain(name: str) -> str:
    return name.replace(".next.", ".")
