"""The part `plan` of the verb `check`: what a run will take in memory, time and disk, before it starts.

A child process builds the run as the verb would, counts, and runs a few real batches: the longest samples for memory, ordinary
ones for time. The rest is arithmetic (`plan_figures`). It runs in a child so that memory is measured cleanly, and so that a
system short of memory ends the child and not the check.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medrag_lightning.artifacts import read_json
from medrag_lightning.cli.config_files import split_arguments
from medrag_lightning.cli.hardware import cores, disk_free, load_average, memory
from medrag_lightning.cli.outcome import tell
from medrag_lightning.cli.plan_figures import Evaluated, Probe, Rung, Timed, estimate
from medrag_lightning.cli.plan_verdict import Room, failure_finding, plan_rows, verdict
from medrag_lightning.cli.run_folder import CHILD_VARIABLE, RUNS
from medrag_lightning.data.audit.findings import Finding

SIGN = "@plan "
LIMIT_SECONDS = 1800
KEPT_LINES = 20

Say = Callable[[str], None]
Planned = tuple[list[Finding], list[tuple[str, str]]]


def plan_findings(arguments: list[str]) -> Planned:
    """Whether the run that `arguments` describe fits this machine, and a table of two columns that says what it will take.

    Args:
        arguments: those of `fit`: ``-c FILE ... --KEY VALUE ...``; the plan of another verb where ``--verb NAME`` stands among
            them. A stage that only predicts is planned as `predict`. Or those of `run`, the recipe's name first: then every
            step is planned that can be before the earlier ones have run.
    """
    if arguments and not arguments[0].startswith("-"):
        from medrag_lightning.cli.plan_recipe import recipe_findings

        return recipe_findings(arguments, plan_run)
    verb, rest = _verb(arguments)
    findings, rows, _ = plan_run(verb, rest)
    return findings, rows


def plan_run(verb: str, arguments: Sequence[str], say: Say | None = None) -> tuple[list[Finding], list[tuple[str, str]], float]:
    """Findings and rows of one command, and the seconds that it will take (0.0 where that cannot be told)."""
    where = _where(arguments)
    found = run_probe(verb, arguments, say or _to_terminal)
    if "probe" not in found:
        finding = failure_finding(found, where)
        return [finding], [("run", f"{verb}, {where}"), ("verdict", f"not planned: {finding.what}")], 0.0
    probe = read_probe(found["probe"])
    if (load := load_average() or 0.0) > cores() + 1.0:  # the probe itself is one
        probe.notes.append(f"{load:.1f} processes wanted {cores():g} cores: alone, the run will be faster than told here")
    told = estimate(probe)
    free = memory()
    findings, last = verdict(probe, told, Room(None if free is None else free.available, disk_free(_run_folder(arguments))))
    return findings, [*plan_rows(probe, told), last], 0.0 if told.batches is None else told.seconds


def run_probe(verb: str, arguments: Sequence[str], say: Say) -> Mapping[str, Any]:
    """What the child wrote; a ``failure`` of kind ``crash`` or ``memory`` where it wrote nothing."""
    with tempfile.TemporaryDirectory(prefix="medrag-plan-") as folder:
        result = Path(folder) / "probe.json"
        head = [sys.executable, "-m", "medrag_lightning.cli.plan_probe", verb, str(result), str(time.time())]
        environment = {name: value for name, value in os.environ.items() if name != CHILD_VARIABLE}
        environment = {"GOMP_SPINCOUNT": "0", **environment, "PYTHONUNBUFFERED": "1"}
        child = subprocess.Popen(
            [*head, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
        )
        clock = threading.Timer(LIMIT_SECONDS, child.kill)
        clock.start()
        try:
            lines = _follow(child, say)
            code = child.wait()
        finally:
            is_late = not clock.is_alive()
            clock.cancel()
            child.kill()
            child.wait()
        if result.is_file():
            found: dict[str, Any] = read_json(result)
            return found
        return _ended(code, lines, is_late)


def _follow(child: subprocess.Popen[str], say: Say) -> list[str]:
    """Passes on what is meant for the user; gives the last other lines."""
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith(SIGN):
            say(str(json.loads(line.removeprefix(SIGN))))
        elif line.strip():
            lines.append(line.strip())
    return list(lines)


def _ended(code: int, lines: Sequence[str], is_late: bool) -> dict[str, str]:
    last = lines[-1] if lines else "it said nothing"
    if is_late:
        return {"failure": "crash", "text": f"the probe was not done within {LIMIT_SECONDS / 60:.0f} minutes"}
    if code == -9:
        return {"failure": "memory", "text": "the system ended the probe (SIGKILL), as it does when memory is short"}
    if "out of memory" in last.lower() or last.startswith("MemoryError"):
        return {"failure": "memory", "text": last}
    return {"failure": "crash", "text": f"the probe ended with exit code {code}: {last}"}


def read_probe(told: Mapping[str, Any]) -> Probe:
    """A probe from its JSON."""
    probe = Probe(**told)
    probe.ladder = [Rung(**one) for one in told["ladder"]]
    probe.cold, probe.warm = ([Timed(**one) for one in told[name]] for name in ("cold", "warm"))
    probe.evaluations = [Evaluated(**one) for one in told["evaluations"]]
    return probe


def _verb(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The verb that ``--verb NAME`` asks for, and the other arguments."""
    rest = list(arguments)
    for place, word in enumerate(rest):
        name, equals, value = word.partition("=")
        if name == "--verb":
            value = value if equals else next(iter(rest[place + 1 : place + 2]), "")
            if value not in ("fit", "validate", "test", "predict"):
                raise ValueError(f"--verb {value}: a plan is of fit, validate, test or predict")
            return value, rest[:place] + rest[place + (1 if equals else 2) :]
    return "fit", rest


def _where(arguments: Sequence[str]) -> str:
    names, _ = split_arguments(arguments)
    return " ".join(names) if names else "the shipped default"


def _run_folder(arguments: Sequence[str]) -> Path:
    option = "--trainer.default_root_dir"
    for place, word in enumerate(arguments):
        if word.startswith(f"{option}="):
            return Path(word.partition("=")[2])
        if word == option and place + 1 < len(arguments):
            return Path(arguments[place + 1])
    return RUNS


def _to_terminal(text: str) -> None:
    """Where a terminal is looked at, what the probe is doing."""
    if sys.stderr.isatty():
        tell(f"plan: {text}", sys.stderr)
