"""What a run or a recipe has left on disk: which folder is which, its settings, curves and tables."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from medrag_lightning.artifacts import read_json

Curve = list[tuple[float, float]]
TRACES = ("config.yaml", "metrics.csv", "results.json", "results_val.json", "predictions")
SPLITS = ("test", "val", "predict")


@dataclass(frozen=True)
class Run:
    """One run folder; `name` is what it is called in the report."""

    name: str
    folder: Path

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Everything that was set; empty where there is no ``config.yaml``. ``${NAME}`` stay as they are."""
        path = self.folder / "config.yaml"
        if not path.is_file():
            return {}
        try:
            told = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: not valid YAML: {error}") from error
        return told if isinstance(told, dict) else {}

    @cached_property
    def step(self) -> Mapping[str, Any]:
        """The step of a recipe that this folder is of; empty where it is none."""
        return self.json("step.json") or {}

    @property
    def verb(self) -> str | None:
        """The verb of the step, where known."""
        told = self.step.get("settings", {}).get("verb")
        return None if told is None else str(told)

    @property
    def split(self) -> str | None:
        """The split whose predictions are here: test before val before predict."""
        return next((split for split in SPLITS if self.predictions(split).is_file()), None)

    @property
    def results(self) -> Mapping[str, Any] | None:
        """The results table: of the test, or else of the validation."""
        return self.json("results.json") or self.json("results_val.json")

    def predictions(self, split: str) -> Path:
        """The file of a split's predictions, there or not."""
        return self.folder / "predictions" / f"{split}.jsonl"

    def json(self, name: str) -> Mapping[str, Any] | None:
        """A JSON object in the folder; None where there is no such file."""
        path = self.folder / name
        if not path.is_file():
            return None
        told = read_json(path)
        if not isinstance(told, dict):
            raise ValueError(f"{path}: expected a JSON object, got {type(told).__name__}")
        return told

    def setting(self, *keys: str) -> Any:
        """A setting by its keys, looking through ``init_args``; None where it is not there."""
        found: Any = self.config
        for key in keys:
            inner = found.get("init_args") if isinstance(found, Mapping) and key not in found else found
            if not isinstance(inner, Mapping) or key not in inner:
                return None
            found = inner[key]
        return found

    def curves(self) -> dict[str, Curve]:
        """(step, value) of every column of ``metrics.csv``; what is not finite is left out."""
        return read_curves(self.folder / "metrics.csv")

    def base_folder(self) -> Path | None:
        """The folder that the run was started in, by which relative paths in its config go; None where it cannot be told."""
        told = self.setting("trainer", "default_root_dir")
        parts = Path(str(told)).parts if told else ()
        here = self.folder.resolve().parts
        if not parts or Path(*parts).is_absolute() or here[-len(parts) :] != parts:
            return None
        return Path(*here[: -len(parts)])


@dataclass(frozen=True)
class Found:
    """The run that is reported on, and the other steps of its recipe, oldest first."""

    main: Run
    steps: tuple[Run, ...] = ()

    def named(self, *files: str) -> list[Run]:
        """The main run and the steps that hold one of the files, the main run first."""
        return [run for run in (self.main, *self.steps) if any((run.folder / name).is_file() for name in files)]


def find_runs(folder: Path) -> Found:
    """The run in `folder`; of a recipe's folder the step ``test``, or else the newest one with results.

    Raises:
        ValueError: nothing of a run is there.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; name a run folder (runs/NAME-001) or that of a recipe (runs/jomed)")
    if is_run(folder):
        return Found(Run(folder.resolve().name, folder))
    steps = sorted((path for path in folder.iterdir() if path.is_dir() and is_run(path)), key=_age)
    if not steps:
        raise ValueError(
            f"{folder} holds no run: neither it nor a folder in it has {', '.join(TRACES)}; "
            "name a run folder (runs/NAME-001) or that of a recipe (runs/jomed)"
        )
    runs = [Run(path.name, path) for path in steps]
    main = max(runs, key=_worth)
    return Found(main, tuple(run for run in runs if run is not main))


def is_run(folder: Path) -> bool:
    """Whether a run left something here."""
    return any((folder / name).exists() for name in TRACES)


def read_curves(path: Path) -> dict[str, Curve]:
    """(step, value) of every column of a ``metrics.csv``, by name; the suffix ``_step`` is dropped. Not finite: left out.

    Raises:
        ValueError: a cell is no number; names file and line.
    """
    curves: dict[str, Curve] = {}
    if not path.is_file():
        return curves
    with path.open(newline="", encoding="utf-8") as stream:
        for line, row in enumerate(csv.DictReader(stream), start=2):
            try:
                step = float(row["step"])
                values = {name: float(cell) for name, cell in row.items() if cell and name not in ("step", "epoch")}
            except (KeyError, ValueError, TypeError) as error:
                raise ValueError(f"{path}:{line}: not a row of metrics with a step: {error}") from error
            for name, value in values.items():
                if math.isfinite(value):
                    curves.setdefault(name.removesuffix("_step"), []).append((step, value))
    return curves


def checkpoint_of(found: Found, asked: str | None) -> Path:
    """The checkpoint that the main run's answers came from: `asked`, or what its recipe step names, or its own best.

    Raises:
        ValueError: there is none, or it cannot be told.
    """
    if asked is not None and asked != "best":
        path = Path(asked)
        if not path.is_file():
            raise ValueError(f"--ckpt_path {asked}: there is no such file")
        return path
    told = str(found.main.step.get("settings", {}).get("arguments", {}).get("ckpt_path", ""))
    owner = next((run for run in found.steps if told == f"${{steps.{run.name}.best}}"), found.main)
    files: Sequence[Path] = sorted((owner.folder / "checkpoints").glob("best-*.ckpt"), key=_age)
    if not files:
        raise ValueError(f"{owner.folder}: no checkpoint best-*.ckpt; name the one of these answers with --ckpt_path FILE")
    return files[-1]


def _worth(run: Run) -> tuple[bool, bool, bool, float]:
    tested = (run.folder / "results.json").is_file()
    return tested and run.name == "test", tested, run.split is not None, _age(run.folder)


def _age(path: Path) -> float:
    config = path / "config.yaml"
    return (config if config.is_file() else path).stat().st_mtime
