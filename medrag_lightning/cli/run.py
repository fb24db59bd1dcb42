"""The verb `run`: the steps of a recipe in order, each its own process launch, resumable at any of them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from medrag_lightning.cli import step_state
from medrag_lightning.cli.follow import Exchange
from medrag_lightning.cli.launch import Ranks, find_ranks, launch, program
from medrag_lightning.cli.outcome import INTERRUPTED, PREEMPTED, USER_ERROR, tell
from medrag_lightning.cli.recipe import WITHOUT_TRAINER, Recipe, read_recipe
from medrag_lightning.cli.recipe_plan import Folder, Planned, command, plan, shell_line
from medrag_lightning.cli.run_folder import RUNS
from medrag_lightning.cli.run_table import Line, clock, print_table
from medrag_lightning.cli.step_state import Record

USAGE = "usage: run RECIPE [--folder F] [--from STEP] [--only STEP] [--dry_run] [--set STEP.KEY=VALUE] [--VARIABLE VALUE]"


@dataclass
class Run:
    """A recipe under way in a folder."""

    recipe: Recipe
    folder: Folder
    options: argparse.Namespace
    ranks: Ranks
    exchange: Exchange
    lines: list[Line] = field(default_factory=list)

    def steps(self, planned: Sequence[Planned]) -> None:
        """Runs what is not done; SystemExit with the exit code of a step that fails."""
        earlier = step_state.seconds_taken(self.folder)
        for number, one in enumerate(planned, 1):
            record = step_state.read_record(self.folder.of(one.step.name))
            if record is not None and record.done:
                self.lines.append(Line(one.step.name, one.step.verb, "done before", record.seconds))
            elif self.options.only not in (None, one.step.name):
                self.lines.append(Line(one.step.name, one.step.verb, "not asked for", None))
            else:
                left = [earlier.get(other.step.name) for other in planned[number - 1 :]]
                rest = [seconds for seconds in left if seconds is not None]
                soon = f" · about {clock(sum(rest))} left, by the last run" if len(rest) == len(left) else ""
                tell(f"[{number}/{len(planned)}] {one.step.name}: {one.step.verb}{soon}", sys.stdout)
                self._step(one, record)

    def _step(self, one: Planned, record: Record | None) -> None:
        step, folder = one.step, self.folder.of(one.step.name)
        _put_aside([later.name for later in self.recipe.steps[len(self.lines) + 1 :]], self.folder)
        resume = record is not None and step_state.can_resume(one, folder)
        if not resume:
            step_state.clear_for_start(folder)
        before = record.seconds if record is not None and resume else 0.0
        words = self._words(one, resume)
        Record(one.settings, one.fingerprint, False, before).write(folder)
        if step.verb not in WITHOUT_TRAINER:
            self.exchange.say({"command": words})
        start = time.monotonic()
        code = launch(words, folder / "log.txt", lambda line: tell(f"  {line}", sys.stdout), self.exchange.somebody_failed)
        seconds = before + time.monotonic() - start
        Record(one.settings, one.fingerprint, code == 0, seconds).write(folder)
        self.lines.append(Line(step.name, step.verb, _state(code), seconds))
        if code:
            self._stop(one, code)
        step_state.note_seconds(self.folder, step.name, seconds)

    def _words(self, one: Planned, resume: bool) -> list[str]:
        devices = self.options.devices or (str(self.ranks.devices) if self.ranks.size > 1 else None)
        words = command(one, self.folder, looking=True, resume=resume, devices=devices)
        if self.ranks.nodes > 1 and one.step.verb not in WITHOUT_TRAINER:
            words.append(f"--trainer.num_nodes={self.ranks.nodes}")
        return [*program(self.options.launcher, devices, one.step.verb), *words]

    def _stop(self, one: Planned, code: int) -> NoReturn:
        name = one.step.name
        self.lines += [Line(s.name, s.verb, "not run", None) for s in self.recipe.steps[len(self.lines) :]]
        print_table(self.recipe.name, self.folder.root, self.lines)
        what = "was stopped" if code in (PREEMPTED, INTERRUPTED) else f"ended with exit code {code}"
        tell(f"step {name!r} {what}; its log: {self.folder.of(name) / 'log.txt'}", sys.stderr)
        tell("the same command goes on from there", sys.stderr)
        raise SystemExit(code)


def run_recipe(arguments: Sequence[str]) -> None:
    """Runs a recipe as the arguments say. ValueError for every mistake in them or in the recipe.

    Raises:
        SystemExit: a step's own exit code, other than 0; 75 or 130 after an interruption.
    """
    options, rest = parse_run(arguments)
    recipe = read_recipe(options.recipe).with_variables(recipe_variables(rest)).with_arguments(options.set)
    folder = Folder(Path(options.folder) if options.folder else RUNS / recipe.name)
    for option, name in (("--from", options.first), ("--only", options.only)):
        if name is not None:
            recipe.step(name, option)
    planned = plan(recipe)
    if options.dry_run:
        _print_commands(planned, folder, options)
        return
    ranks = find_ranks()
    if ranks.size > 1 and options.launcher == "torchrun":
        raise ValueError("run: srun has started every process already; leave --launcher torchrun out")
    exchange = Exchange(folder.root, ranks)
    if ranks.rank > 0:
        logs = f"log.rank{ranks.rank}.txt"
        code = exchange.follow(lambda words, ended: launch(words, _folder_of(words) / logs, None, ended))
        raise SystemExit(code)
    run = Run(recipe, folder, options, ranks, exchange)
    code = USER_ERROR
    try:
        with step_state.only_one(folder):
            _settle(planned, folder, options)
            run.steps(planned)
        code = 0
    except SystemExit as ending:
        code = int(ending.code or 0)
        raise
    finally:
        exchange.end(code)
    print_table(recipe.name, folder.root, run.lines)


def _settle(planned: Sequence[Planned], folder: Folder, options: argparse.Namespace) -> None:
    """Puts aside what ``--from`` runs again; ValueError where a step that is kept was begun with other settings."""
    names = [one.step.name for one in planned]
    start = names.index(options.first) if options.first else len(names)
    last = names.index(options.only) + 1 if options.only else start
    for one in planned[:last]:
        record = step_state.read_record(folder.of(one.step.name))
        needed = (options.first or options.only) and one.step.name != options.only
        if record is not None and (differs := step_state.changes(one, record)):
            raise ValueError(
                f"{folder.root}: step {one.step.name!r} was run with other settings: {'; '.join(differs)}. To run it "
                f"and those after it again add --from {one.step.name} (what is there is put aside); else give another --folder"
            )
        if needed and (record is None or not record.done):
            raise ValueError(f"step {one.step.name!r} comes first and is not done: leave --from and --only out to run it")
    _put_aside(names[start:], folder)


def _put_aside(names: Sequence[str], folder: Folder) -> None:
    for name in names:
        if aside := step_state.put_aside(folder.of(name)):
            tell(f"{name}: what was there is now {aside}", sys.stdout)


def _print_commands(planned: Sequence[Planned], folder: Folder, options: argparse.Namespace) -> None:
    """Every command as it would run from the start, with a line that says what would become of it."""
    for number, one in enumerate(planned, 1):
        record = step_state.read_record(folder.of(one.step.name))
        resume = record is not None and not record.done and step_state.can_resume(one, folder.of(one.step.name))
        state = "not run yet" if record is None else "done" if record.done else "begun"
        if record is not None and (differs := step_state.changes(one, record)):
            state += f" with other settings ({'; '.join(differs)}): needs --from {one.step.name}"
        words = command(one, folder, looking=False, resume=resume, devices=options.devices)
        tell(f"# {number} {one.step.name}: {state}", sys.stdout)
        tell(shell_line([*program(options.launcher, options.devices, one.step.verb), *words], folder), sys.stdout)


def parse_run(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of `run` by name, and the words that set variables of the recipe; ValueError for every mistake."""
    parser = argparse.ArgumentParser(prog="medrag_lightning run", add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("recipe")
    for name in ("--folder", "--only", "--devices"):
        parser.add_argument(name)
    parser.add_argument("--from", dest="first")
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("--launcher", choices=("python", "torchrun"), default="python")
    parser.add_argument("--set", action="append", default=[])
    if not arguments or arguments[0].startswith("-"):
        raise ValueError(f"run: name a recipe first; {USAGE}")
    try:
        options, rest = parser.parse_known_args(list(arguments))
    except (argparse.ArgumentError, SystemExit) as error:
        raise ValueError(f"run: {error}; {USAGE}") from error
    if options.first and options.only:
        raise ValueError("run: give --from or --only, not both: --from runs a step and those after it, --only that step alone")
    if options.devices is not None and not (options.devices.isdigit() and int(options.devices) > 0):
        raise ValueError(f"run: --devices must be a number from 1, got {options.devices!r}")
    if options.launcher == "torchrun" and options.devices is None:
        raise ValueError("run: --launcher torchrun starts a process for each device: say how many with --devices N")
    return options, rest


def recipe_variables(words: Sequence[str]) -> dict[str, Any]:
    """``--NAME VALUE`` or ``--NAME=VALUE``; null, lists and mappings are read as YAML."""
    given: dict[str, Any] = {}
    left = iter(words)
    for word in left:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise ValueError(f"run: not understood: {word!r}; {USAGE}")
        if not equals and (value := next(left, "")) == "":
            raise ValueError(f"run: --{name} needs a value")
        given[name] = yaml.safe_load(value) if value == "null" or value[0] in "[{" else value
    return given


def _folder_of(words: Sequence[str]) -> Path:
    """The step's folder, as it stands in its command."""
    option = "--trainer.default_root_dir="
    return Path(next(word.removeprefix(option) for word in words if word.startswith(option)))


def _state(code: int) -> str:
    known = {0: "done", PREEMPTED: "stopped", INTERRUPTED: "interrupted"}
    return known.get(code, f"failed ({code})")
