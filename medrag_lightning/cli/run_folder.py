"""Run folders: one numbered folder a run, and the checkpoints in it. Standard library only."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

RUNS = Path("runs")
CHILD_VARIABLE = "MEDRAG_RUN_FOLDER"  # set by the first process for the ranks that it starts
TRACES = ("metrics.csv", "checkpoints/*.ckpt")  # not config.yaml: a run stopped before its first step may start again


@dataclass(frozen=True, slots=True)
class Request:
    """What a command says about its run folder.

    Attributes:
        verb: fit, validate, test or predict.
        name: of the run, where a new folder is made.
        root: the folder given by the user, if any.
        ckpt_path: ``last``, ``best``, a file, or None.
    """

    verb: str
    name: str
    root: Path | None
    ckpt_path: str | None

    @property
    def keyword(self) -> str | None:
        """``last`` or ``best``, if that was asked for."""
        return self.ckpt_path if self.ckpt_path in ("last", "best") else None


def choose_folder(request: Request, environment: Mapping[str, str] = os.environ) -> Path:
    """The run folder of a command; a new one is made in one step, so that two runs never share it.

    Ranks started by Lightning get the folder of the first process. ValueError where a choice would be a guess.
    """
    if environment.get("LOCAL_RANK", "0") != "0" and CHILD_VARIABLE in environment:
        return Path(environment[CHILD_VARIABLE])
    if request.root is not None:
        return _given(request, request.root)
    if "TORCHELASTIC_RUN_ID" in environment or int(environment.get("SLURM_NTASKS", "1")) > 1:
        raise ValueError("processes started by torchrun or SLURM must share one folder: give --trainer.default_root_dir")
    if request.keyword:
        return newest_run(request.name)
    if request.ckpt_path and Path(request.ckpt_path).resolve().parent.name == "checkpoints":
        return Path(request.ckpt_path).parent.parent
    return new_folder(request.name)


def new_folder(name: str, runs: Path = RUNS) -> Path:
    """Makes ``runs/<name>-<number>`` with the first number after all that are there."""
    number = max((found for found, _ in _numbered(name, runs)), default=0) + 1
    runs.mkdir(parents=True, exist_ok=True)
    while True:
        folder = runs / f"{name}-{number:03d}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def leave_folder(environment: MutableMapping[str, str] = os.environ) -> None:
    """Ends the first process's hold on its folder; a numbered one that stayed empty (a mistake, told) is removed."""
    if environment.get("LOCAL_RANK", "0") != "0" or CHILD_VARIABLE not in environment:
        return
    folder = Path(environment.pop(CHILD_VARIABLE))
    if folder.parent == RUNS and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def newest_run(name: str, runs: Path = RUNS) -> Path:
    """The run of that name with the highest number that holds a checkpoint."""
    for _, folder in sorted(_numbered(name, runs), reverse=True):
        if checkpoints(folder):
            return folder
    raise ValueError(
        f"there is no run named {name}-NNN with a checkpoint under {runs}/; start one without --ckpt_path, "
        "or name its folder with --trainer.default_root_dir"
    )


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoint files of a run, newest first."""
    files = (folder / "checkpoints").glob("*.ckpt")
    return sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def last_checkpoint(folder: Path) -> Path:
    """``last.ckpt`` of a run, or its newest checkpoint if it has no such file; ValueError if it has none."""
    found = checkpoints(folder)
    if not found:
        raise ValueError(f"--ckpt_path: {folder} holds no checkpoint yet; start it without --ckpt_path")
    last = folder / "checkpoints" / "last.ckpt"
    return last if last in found else found[0]


def _given(request: Request, root: Path) -> Path:
    traces = [path.relative_to(root).as_posix() for pattern in TRACES for path in sorted(root.glob(pattern))]
    if request.verb == "fit" and request.ckpt_path is None and traces:
        raise ValueError(
            f"{root} already holds a run ({', '.join(traces)}). To go on with it add --ckpt_path last; "
            "to start another give another --trainer.default_root_dir, or none for a new numbered folder"
        )
    return root


def _numbered(name: str, runs: Path) -> list[tuple[int, Path]]:
    pattern = re.compile(re.escape(name) + r"-(\d+)")
    matches = [(pattern.fullmatch(path.name), path) for path in runs.glob(f"{name}-*") if path.is_dir()]
    return [(int(match[1]), path) for match, path in matches if match]
