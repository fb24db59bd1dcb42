"""Launches the command of a step, on one process or on every rank of a SLURM job, and passes on its output and its end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Literal

from medrag_lightning.cli.outcome import INTERRUPTED, PREEMPTED
from medrag_lightning.cli.recipe import WITHOUT_TRAINER
from medrag_lightning.cli.run_folder import CHILD_VARIABLE

Launcher = Literal["python", "torchrun"]
POLL_SECONDS, GRACE_SECONDS = 0.2, 30.0
_CODES = {signal.SIGTERM: PREEMPTED, signal.SIGINT: INTERRUPTED}


@dataclass(frozen=True, slots=True)
class Ranks:
    """The place of this process among those that run the same command under ``srun``; alone without it.

    Attributes:
        rank, size: of all tasks.
        devices, nodes: for ``--trainer.devices`` and ``--trainer.num_nodes``, as SLURM has laid the tasks out.
        key: differs between two ``srun`` of one job, and between a job and its restart.
    """

    rank: int = 0
    size: int = 1
    devices: int = 1
    nodes: int = 1
    key: str = ""


def find_ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Reads the place from the environment; ValueError where each task would believe to be alone."""
    if "TORCHELASTIC_RUN_ID" in environment:
        raise ValueError("run: start it once, without torchrun; it starts torchrun itself: --launcher torchrun --devices N")
    size = int(environment.get("SLURM_NTASKS", "1"))
    if size == 1 or environment.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return Ranks()
    if "SLURM_STEP_ID" not in environment:
        raise ValueError(
            f"run: this SLURM job has {size} tasks, but this is none of them; write: srun python -m medrag_lightning run ..."
        )
    nodes = int(environment.get("SLURM_STEP_NUM_NODES") or environment.get("SLURM_NNODES", "1"))
    if size % nodes:
        raise ValueError(f"run: {size} tasks do not divide over {nodes} nodes; give --ntasks-per-node")
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    key = ".".join(environment.get(name, "0") for name in names)
    return Ranks(int(environment["SLURM_PROCID"]), size, size // nodes, nodes, key)


def program(launcher: Launcher, devices: str | None, verb: str) -> list[str]:
    """What stands before the verb: Python, or torchrun with a process for each device."""
    python = shutil.which("python")
    name = "python" if python and Path(python).resolve() == Path(sys.executable).resolve() else sys.executable
    if launcher == "python" or verb in WITHOUT_TRAINER:
        return [name, "-m", "medrag_lightning"]
    return [name, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={devices}", "-m", "medrag_lightning"]


def launch(
    words: Sequence[str], log: Path, echo: Callable[[str], None] | None, give_up: Callable[[], bool] = lambda: False
) -> int:
    """Runs a command to its end; gives its exit code: 75 after SIGTERM, 130 after Ctrl-C, 128 + n if signal n ended it.

    The command is a process group of its own, so that Ctrl-C reaches it once, through this process, and not twice.

    Args:
        words: the command.
        log: its output is appended here.
        echo: gets each line, too.
        give_up: asked now and then; when true, the command is told to end, and killed if it does not within 30 s.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"$ {' '.join(words)}\n")
        stream.flush()
        child = subprocess.Popen(
            list(words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0, env=_environment()
        )
        reader = threading.Thread(target=_copy, args=(child.stdout, stream, echo), daemon=True)
        reader.start()
        with _signals_to(child) as received:
            code = _wait(child, give_up)
        reader.join(GRACE_SECONDS)
    if code and received:
        return _CODES[received[0]]
    return 128 - code if code < 0 else code


def _environment() -> dict[str, str]:
    """Of the child: its lines come at once, its tables are as wide as this terminal, its run folder is its own."""
    mine = {name: value for name, value in os.environ.items() if name != CHILD_VARIABLE}
    return {"COLUMNS": str(shutil.get_terminal_size((120, 24)).columns), **mine, "PYTHONUNBUFFERED": "1"}


def _copy(source: IO[bytes] | None, log: IO[str], echo: Callable[[str], None] | None) -> None:
    """Every line to the log; to the terminal, too, where a line that overwrites itself shows its last state."""
    assert source is not None
    for raw in source:
        line = raw.decode("utf-8", "replace").rstrip("\n")
        log.write(line + "\n")
        log.flush()
        if echo is not None and line.strip():
            echo(line.rstrip("\r").rsplit("\r", 1)[-1])


@contextmanager
def _signals_to(child: subprocess.Popen[bytes]) -> Iterator[list[signal.Signals]]:
    """Passes SIGTERM and Ctrl-C on while the child runs; yields those received."""
    received: list[signal.Signals] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        if child.poll() is None:
            child.send_signal(number)

    main = threading.current_thread() is threading.main_thread()
    previous = {number: signal.signal(number, forward) for number in _CODES} if main else {}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait(child: subprocess.Popen[bytes], give_up: Callable[[], bool]) -> int:
    while True:
        try:
            return child.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if give_up():
                child.terminate()
                try:
                    return child.wait(GRACE_SECONDS)
                except subprocess.TimeoutExpired:
                    os.killpg(child.pid, signal.SIGKILL)
                    return child.wait()
