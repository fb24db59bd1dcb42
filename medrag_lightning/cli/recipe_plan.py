"""What each step of a recipe will run: its command, and a fingerprint of all that the command depends on."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medrag_lightning.artifacts import fingerprint, sha256_file
from medrag_lightning.cli.config_files import config_folder, read_all
from medrag_lightning.cli.recipe import PLACEHOLDER, WITHOUT_TRAINER, Recipe, Step


@dataclass(frozen=True, slots=True)
class Planned:
    """A step whose settings are known, though not yet the checkpoints it starts from.

    Attributes:
        settings: verb, config files by sha256, arguments with variables filled in, and the fingerprint of the step before:
            a step is up to date only if all before it are. The number of devices and the launcher are not in it.
        fingerprint: sha256 of `settings`.
    """

    step: Step
    configs: tuple[str, ...]
    arguments: Mapping[str, str]
    settings: Mapping[str, Any]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of a recipe's run, with a folder for each step."""

    root: Path

    def of(self, step: str) -> Path:
        """The folder of a step."""
        return self.root / step

    def fill_in(self, text: str, looking: bool) -> str:
        """`text` with paths for ``${recipe}`` and ``${steps...}``, other placeholders left as they are.

        `looking`: best checkpoints are looked up on disk, with a ValueError where one is missing; without it, one that is not
        there yet stays ``${steps.NAME.best}``.
        """
        return PLACEHOLDER.sub(lambda match: self._path(match[1], looking) or match[0], text)

    def _path(self, inside: str, looking: bool) -> str | None:
        if inside == "recipe":
            return str(self.root)
        if not inside.startswith("steps."):
            return None
        _, name, *kind = inside.split(".")
        if not kind:
            return str(self.of(name))
        if kind == ["last"]:
            return str(self.of(name) / "checkpoints" / "last.ckpt")
        if not looking and not (self.of(name) / "checkpoints" / "last.ckpt").is_file():
            return None
        return str(best_checkpoint(self.of(name)))


def best_checkpoint(folder: Path) -> Path:
    """The checkpoint that `ModelCheckpoint` recorded as best in the last one of a run; ValueError where there is none."""
    from medrag_lightning.cli.checkpoint_head import read_head  # imports torch
    from medrag_lightning.cli.run_folder import last_checkpoint

    last = last_checkpoint(folder)
    recorded = read_head(last).best_path
    if not recorded:
        raise ValueError(f"{last} names no best checkpoint: nothing was monitored; use .last instead of .best in the recipe")
    best = folder / "checkpoints" / Path(recorded).name  # the run may have been moved
    if not best.is_file():
        raise ValueError(f"{best}, the best checkpoint of that step, is gone; use .last, or run the step again with --from")
    return best


def plan(recipe: Recipe) -> list[Planned]:
    """All steps with their settings; ValueError names the step whose config file is missing or not valid."""
    planned: list[Planned] = []
    before = ""
    for step in recipe.steps:
        configs = tuple(filled for config in step.configs if (filled := _fill(config, recipe.variables)))
        arguments = {key: _text(_fill_value(value, recipe.variables)) for key, value in step.arguments.items()}
        try:
            contents = _contents(step, configs, arguments)
        except ValueError as error:
            raise ValueError(f"{recipe.path}:{step.line}: step {step.name!r}: {error}") from error
        settings = {"verb": step.verb, "configs": contents, "arguments": arguments, "after": before}
        before = fingerprint(settings)
        planned.append(Planned(step, configs, arguments, settings, before))
    return planned


def command(planned: Planned, folder: Folder, looking: bool, resume: bool = False, devices: str | None = None) -> list[str]:
    """What follows ``python -m medrag_lightning``, verb first.

    Args:
        planned: the step.
        folder: the recipe's.
        looking: as for `Folder.fill_in`.
        resume: a fit goes on from its last checkpoint.
        devices: for ``--trainer.devices``, if the recipe's own value is not to stand.
    """
    step = planned.step
    words = [word for config in planned.configs for word in ("-c", folder.fill_in(config, looking))]
    settings = dict(planned.arguments)
    if step.verb not in WITHOUT_TRAINER:
        settings["trainer.default_root_dir"] = str(folder.of(step.name))
        if devices is not None:
            settings["trainer.devices"] = devices
    if resume:
        settings["ckpt_path"] = "last"
    return [step.verb, *words, *(f"--{key}={folder.fill_in(value, looking)}" for key, value in settings.items())]


def shell_line(words: list[str], folder: Folder) -> str:
    """A command to copy into a shell; a best checkpoint that is not there yet is found by the shell when it is."""
    return " ".join(_quoted(word, folder) for word in words)


def _quoted(word: str, folder: Folder) -> str:
    parts = []
    position = 0
    for match in PLACEHOLDER.finditer(word):
        if match[1].startswith("steps."):
            pattern = shlex.quote(str(folder.of(match[1].split(".")[1]) / "checkpoints"))
            parts += [shlex.quote(word[position : match.start()]), f'"$(ls -t {pattern}/best*.ckpt | head -n 1)"']
            position = match.end()
    rest = word[position:]
    return "".join(parts) + (shlex.quote(rest) if rest or not parts else "")


def _contents(step: Step, configs: tuple[str, ...], arguments: Mapping[str, str]) -> dict[str, str]:
    """sha256 of every file that the command will read, by its place; of files that an earlier step writes, none."""
    there = [config for config in configs if "${" not in config]
    if step.verb == "index" and not configs:
        return {}
    whole = len(there) == len(configs)
    model_given = not whole or any(key in ("model", "model.class_path") for key in arguments)
    if not there:
        return {}
    files = read_all(there, model_given)
    return {_place(file.path): sha256_file(file.path) for file in files}


def _place(path: Path) -> str:
    """A shipped file by its short name, so that an installation may move."""
    shipped = config_folder()
    return str(path.relative_to(shipped) if path.is_relative_to(shipped) else path)


def _fill(text: str, variables: Mapping[str, Any]) -> str | None:
    """`text` with the recipe's variables filled in; None for a lone variable that is null."""
    match = PLACEHOLDER.fullmatch(text)
    if match and match[1] in variables and variables[match[1]] is None:
        return None
    return PLACEHOLDER.sub(lambda m: _text(variables[m[1]]) if m[1] in variables else m[0], text)


def _fill_value(value: Any, variables: Mapping[str, Any]) -> Any:
    """A lone placeholder becomes the variable itself, whatever it is; inside other text it becomes text."""
    match = PLACEHOLDER.fullmatch(value) if isinstance(value, str) else None
    if match and match[1] in variables:
        return variables[match[1]]
    if isinstance(value, dict):
        return {key: _fill_value(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill_value(item, variables) for item in value]
    return _fill(value, variables) if isinstance(value, str) else value


def _text(value: Any) -> str:
    """A value as the command line takes it: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
