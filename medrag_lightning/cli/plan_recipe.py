"""Plans of the steps of a recipe: each step is probed with fresh weights where its checkpoints are not there yet."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from medrag_lightning.cli.plan_verdict import clock
from medrag_lightning.cli.recipe import PLACEHOLDER, WITHOUT_TRAINER, read_recipe
from medrag_lightning.cli.recipe_plan import Folder, command, plan
from medrag_lightning.cli.run import parse_run, recipe_variables
from medrag_lightning.cli.run_folder import RUNS
from medrag_lightning.data.audit.findings import Finding

STARTS = ("ckpt_path", "model.init_args.init_from")  # weights alone: a run without them takes as long
WRAPPERS = ("TrainedEncoder", "HeadedEncoder", "TrainedBackbone")  # a trained one costs what the one inside it costs
PlanRun = Callable[[str, Sequence[str]], tuple[list[Finding], list[tuple[str, str]], float]]


def recipe_findings(arguments: Sequence[str], plan_run: PlanRun) -> tuple[list[Finding], list[tuple[str, str]]]:
    """Every step that can be planned now, and the sum of their times; a step that reads what an earlier one writes is named."""
    options, rest = parse_run(arguments)
    recipe = read_recipe(options.recipe).with_variables(recipe_variables(rest)).with_arguments(options.set)
    folder = Folder(Path(options.folder) if options.folder else RUNS / recipe.name)
    findings: list[Finding] = []
    rows: list[tuple[str, str]] = []
    total, left = 0.0, []
    for one in plan(recipe):
        name = one.step.name
        if options.only not in (None, name):
            continue
        if one.step.verb in WITHOUT_TRAINER:
            rows.append((name, f"{one.step.verb}: not probed; it computes no batches"))
            continue
        words = without_missing(command(one, folder, looking=False, devices=options.devices)[1:])
        found, told, seconds = plan_run(one.step.verb, words)
        if seconds == 0.0 and any(finding.kind == "plan_failed" for finding in found) and one.step != recipe.steps[0]:
            left.append(name)
            rows.append((name, f"cannot be planned before earlier steps have run: {found[0].what}"))
            continue
        total += seconds
        findings += found
        rows += [(f"{name}: {key}" if number else name, text) for number, (key, text) in enumerate(told)]
    text = f"about {clock(total)} (computed)" + (f", without {', '.join(left)}" if left else "")
    return findings, [*rows, ("whole recipe", text)]


def without_missing(words: Sequence[str]) -> list[str]:
    """Arguments of a command without the checkpoints that are not there: fresh weights take as much memory and time."""
    kept: list[str] = []
    for word in words:
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not equals:
            kept.append(word)
        elif key not in STARTS or _is_there(value):
            kept.append(f"--{key}={_unwrapped_text(value)}")
    configs = [place for place, word in enumerate(kept) if word == "-c" and not _may_read(kept[place + 1])]
    dropped = {place + more for place in configs for more in (0, 1)}
    return [word for place, word in enumerate(kept) if place not in dropped]


def _may_read(config: str) -> bool:
    """Whether a config file can be read; one that an earlier step will write lies at an absolute or a run's path."""
    return Path(config).is_file() or not (
        PLACEHOLDER.search(config) or config.startswith(str(RUNS)) or Path(config).is_absolute()
    )


def _unwrapped_text(value: str) -> str:
    if not value.startswith(("{", "[")):
        return value
    told: Any = yaml.safe_load(value)
    changed = unwrapped(told)
    return value if changed == told else json.dumps(changed)


def unwrapped(value: Any) -> Any:
    """`value` with every trained encoder or backbone whose checkpoints are not there replaced by the one inside it."""
    if isinstance(value, list):
        return [unwrapped(item) for item in value]
    if not isinstance(value, dict):
        return value
    settings = value.get("init_args") or {}
    if str(value.get("class_path", "")).rpartition(".")[2] in WRAPPERS:
        inner = settings.get("encoder") or settings.get("backbone")
        files = [settings.get(key) for key in ("checkpoint", "text_head", "image_head")]
        if inner is not None and any(file is not None and not _is_there(str(file)) for file in files):
            return unwrapped(inner)
    return {key: unwrapped(item) for key, item in value.items()}


def _is_there(path: str) -> bool:
    return not PLACEHOLDER.search(path) and Path(path).is_file()
