"""How far a recipe has come: a record beside each step's results, how long steps took, and one run a folder at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medrag_lightning.artifacts import read_json, write_json
from medrag_lightning.cli.recipe_plan import Folder, Planned
from medrag_lightning.cli.run_folder import TRACES, checkpoints

RECORD, SECONDS, LOCK = "step.json", "seconds.json", ".lock"


@dataclass(frozen=True, slots=True)
class Record:
    """What is on disk of a step: begun with these settings, and whether it has ended with exit code 0."""

    settings: Mapping[str, Any]
    fingerprint: str
    done: bool
    seconds: float

    def write(self, folder: Path) -> None:
        """Puts the record into the step's folder, in one piece."""
        told = {"done": self.done, "seconds": round(self.seconds, 1), "fingerprint": self.fingerprint}
        write_json(folder / RECORD, {**told, "settings": self.settings})


def read_record(folder: Path) -> Record | None:
    """The record of a step; None if it has not begun. ValueError for a file that is not ours."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        told = read_json(path)
        return Record(told["settings"], told["fingerprint"], told["done"], float(told["seconds"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); delete it and start that step with --from {folder.name}") from error


def changes(planned: Planned, record: Record) -> list[str]:
    """What differs between the settings a step was begun with and those of now, in words; empty if nothing does."""
    if record.fingerprint == planned.fingerprint:
        return []
    old, new = record.settings, planned.settings
    told = [f"its verb was {old['verb']}, is {new['verb']}"] if old["verb"] != new["verb"] else []
    for key in sorted({*old["arguments"], *new["arguments"]}):
        before, now = old["arguments"].get(key, "not given"), new["arguments"].get(key, "not given")
        if before != now:
            told.append(f"{key} was {before}, is {now}")
    for path in sorted({*old["configs"], *new["configs"]}):
        before, now = old["configs"].get(path), new["configs"].get(path)
        if before != now:
            told.append(f"{path} {'is new' if before is None else 'is no longer read' if now is None else 'has changed'}")
    return told or ["the order of its config files, or a step before it, has changed"]


def can_resume(planned: Planned, folder: Path) -> bool:
    """Whether an unfinished step can go on from its last checkpoint."""
    return planned.step.verb == "fit" and bool(checkpoints(folder))


def put_aside(folder: Path) -> Path | None:
    """Renames a step's folder to ``STEP.before-1`` and so on, so that nothing is lost; None if there is none."""
    if not folder.exists():
        return None
    number = 1
    while (aside := folder.with_name(f"{folder.name}.before-{number}")).exists():
        number += 1
    folder.rename(aside)
    return aside


def clear_for_start(folder: Path) -> None:
    """Puts the folder of a fit that never reached its first checkpoint aside: fit refuses one that holds traces of a run."""
    if any(any(folder.glob(pattern)) for pattern in TRACES):
        put_aside(folder)


def seconds_taken(folder: Folder) -> dict[str, float]:
    """How long each step took when it was last completed here."""
    path = folder.root / SECONDS
    return dict(read_json(path)) if path.is_file() else {}


def note_seconds(folder: Folder, step: str, seconds: float) -> None:
    """Notes how long a step took."""
    write_json(folder.root / SECONDS, {**seconds_taken(folder), step: round(seconds, 1)})


@contextmanager
def only_one(folder: Folder) -> Iterator[None]:
    """Holds the folder; ValueError if another process on this machine runs a recipe in it."""
    import fcntl

    folder.root.mkdir(parents=True, exist_ok=True)
    with (folder.root / LOCK).open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another process runs a recipe in {folder.root}; wait, or give another --folder") from error
        except OSError:  # a file system without locks: nothing to hold
            pass
        yield
