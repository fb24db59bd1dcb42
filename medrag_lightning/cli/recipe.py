"""Recipes: several steps in a row, read from YAML and checked before the first of them starts. Standard library and PyYAML."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from medrag_lightning.cli.config_files import ConfigFile, find_config, read_config

WITHOUT_TRAINER = ("index", "pairs", "explore", "trace", "calibrate")  # of one process; they take no settings of a trainer
VERBS = ("fit", "validate", "test", "predict", *WITHOUT_TRAINER)
PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")
RECIPE_KEYS, STEP_KEYS = ("name", "variables", "steps"), ("name", "verb", "configs", "arguments")
OURS = ("trainer.default_root_dir", "seed")  # set by `run`, or refused by every verb
WORD = re.compile(r"[A-Za-z][\w-]*")


@dataclass(frozen=True, slots=True)
class Step:
    """One process launch: a verb with its config files and arguments, placeholders not yet filled in.

    Attributes:
        configs: what follows ``-c``, in order; an entry that a variable makes null is left out.
        arguments: ``--KEY=VALUE`` by key.
        line: where it stands in the recipe.
    """

    name: str
    verb: str
    configs: tuple[str, ...]
    arguments: Mapping[str, Any]
    line: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe file. `variables` are defaults that the command line may change."""

    path: Path
    name: str
    variables: Mapping[str, Any]
    steps: tuple[Step, ...]

    def step(self, name: str, option: str) -> Step:
        """The step of that name; ValueError names the option that asked for it and the nearest step."""
        found = {step.name: step for step in self.steps}
        if name not in found:
            raise ValueError(f"{option} {name}: {self.path} has no such step{_near(name, list(found))}")
        return found[name]

    def with_variables(self, given: Mapping[str, Any]) -> Recipe:
        """Changed defaults; ValueError for a variable that the recipe does not have."""
        for name in given:
            if name not in self.variables:
                raise ValueError(f"--{name}: {self.path} has no such variable{_near(name, list(self.variables))}")
        return replace(self, variables={**self.variables, **given})

    def with_arguments(self, given: Sequence[str]) -> Recipe:
        """More arguments of steps, each written ``STEP.KEY=VALUE``."""
        steps = {step.name: step for step in self.steps}
        for text in given:
            place, equals, value = text.partition("=")
            name, dot, key = place.partition(".")
            if not (equals and dot and key):
                raise ValueError(f"--set {text}: write STEP.KEY=VALUE, such as {self.steps[0].name}.trainer.max_epochs=3")
            _check_argument(f"--set {text}", key, self.step(name, "--set").verb)
            steps[name] = replace(steps[name], arguments={**steps[name].arguments, key: value})
        changed = replace(self, steps=tuple(steps.values()))
        for step in changed.steps:
            _check_placeholders(changed, step)
        return changed


def read_recipe(name: str) -> Recipe:
    """The recipe of a path or of a short name (``jomed`` for ``recipes/jomed``); ValueError names file, line, step and key."""
    try:
        file = read_config(find_config(name if Path(name).suffix or "/" in name else f"recipes/{name}"))
    except ValueError as error:
        raise ValueError(f"recipe {name!r}: {error}") from error
    _refuse_unknown(file, file.node, RECIPE_KEYS, "a recipe")
    # Constructed from the text again: it has just been found to be valid.
    told: Any = yaml.safe_load(file.path.read_text(encoding="utf-8")) or {}
    for key in ("name", "steps"):
        if not told.get(key):
            raise ValueError(f"{file.path}: a recipe needs `{key}`")
    if not WORD.fullmatch(str(told["name"])):
        raise ValueError(f"{file.path}: name {told['name']!r} must be letters, digits, - and _: a folder is named after it")
    recipe = Recipe(file.path, str(told["name"]), _variables(file, told.get("variables") or {}), _steps(file, told["steps"]))
    for step in recipe.steps:
        _check_placeholders(recipe, step)
    return recipe


def _variables(file: ConfigFile, told: Any) -> dict[str, Any]:
    if not isinstance(told, dict):
        raise ValueError(f"{file.path}:{file.line_of(('variables',))}: variables are `name: value` pairs")
    for name in told:
        where = f"{file.path}:{file.line_of(('variables', str(name)))}"
        if not WORD.fullmatch(str(name)) or name in ("recipe", "run_folder", "steps"):
            raise ValueError(f"{where}: {name!r} cannot be the name of a variable")
    return dict(told)


def _steps(file: ConfigFile, told: Any) -> tuple[Step, ...]:
    assert file.node is not None
    nodes = next(value for key, value in file.node.value if key.value == "steps")
    if not isinstance(told, list):
        raise ValueError(f"{file.path}:{nodes.start_mark.line + 1}: steps are a list: `- name: ...`")
    steps: list[Step] = []
    for values, node in zip(told, nodes.value, strict=True):
        line = node.start_mark.line + 1
        if not isinstance(values, dict):
            raise ValueError(f"{file.path}:{line}: a step is a mapping with {', '.join(STEP_KEYS)}")
        _refuse_unknown(file, node, STEP_KEYS, f"step {values.get('name')!r}")
        steps.append(_step(f"{file.path}:{line}", values, line))
        if [step.name for step in steps].count(steps[-1].name) > 1:
            raise ValueError(f"{file.path}:{line}: two steps are named {steps[-1].name!r}")
    return tuple(steps)


def _step(where: str, values: Mapping[str, Any], line: int) -> Step:
    name, verb = str(values.get("name")), str(values.get("verb"))
    if not WORD.fullmatch(name) or "name" not in values:
        raise ValueError(f"{where}: a step needs a name of letters, digits, - and _, got {values.get('name')!r}")
    if verb not in VERBS:
        raise ValueError(f"{where}: step {name!r}: verb {values.get('verb')!r} is not one of {', '.join(VERBS)}")
    configs, arguments = values.get("configs") or [], values.get("arguments") or {}
    if not isinstance(configs, list) or not all(isinstance(config, str) for config in configs):
        raise ValueError(f"{where}: step {name!r}: configs must be a list of config files, got {configs!r}")
    if not isinstance(arguments, dict):
        raise ValueError(f"{where}: step {name!r}: arguments are `KEY: VALUE` pairs, got {arguments!r}")
    for key in arguments:
        _check_argument(f"{where}: step {name!r}", str(key), verb)
    return Step(name, verb, tuple(configs), {str(key): value for key, value in arguments.items()}, line)


def _check_argument(where: str, key: str, verb: str) -> None:
    if key in OURS or (key == "ckpt_path" and verb == "fit"):
        raise ValueError(f"{where}: {key} is set by `run` itself; leave it out")
    if key.startswith("-") or key in ("c", "config"):
        raise ValueError(f"{where}: write {key.lstrip('-')!r} without dashes, and config files under `configs`")


def _check_placeholders(recipe: Recipe, step: Step) -> None:
    """ValueError for a placeholder that nothing will fill in."""
    earlier = {other.name: other.verb for other in recipe.steps[: [s.name for s in recipe.steps].index(step.name)]}
    texts = [("configs", config) for config in step.configs]
    texts += [(key, text) for key, value in step.arguments.items() for text in _texts(value)]
    for key, text in texts:
        for inside in PLACEHOLDER.findall(text):
            if inside != f"steps.{step.name}" and (fault := _fault(inside, earlier, recipe.variables)):
                raise ValueError(f"{recipe.path}:{step.line}: step {step.name!r}, {key}: ${{{inside}}} {fault}")


def _fault(inside: str, earlier: Mapping[str, str], variables: Mapping[str, Any]) -> str | None:
    """What is wrong with ``${inside}``; None if it is sound. Names in capitals are environment variables."""
    if inside in ("recipe", "run_folder") or inside in variables or re.fullmatch(r"[A-Z][A-Z0-9_]*", inside):
        return None
    if not inside.startswith("steps."):
        return "is no variable of this recipe" + _near(inside, [*variables, "recipe"])
    _, name, *kind = inside.split(".")
    if name not in earlier:
        return "names no earlier step" + _near(name, list(earlier))
    if kind not in ([], ["best"], ["last"]):
        return f"is not understood: write ${{steps.{name}}}, ${{steps.{name}.best}} or ${{steps.{name}.last}}"
    if kind and earlier[name] != "fit":
        return f"asks for a checkpoint, but step {name!r} is a {earlier[name]}: only fit writes some"
    return None


def _texts(value: Any) -> list[str]:
    """All texts inside a value."""
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []


def _refuse_unknown(file: ConfigFile, node: yaml.Node | None, known: Sequence[str], of: str) -> None:
    for key, _ in node.value if isinstance(node, yaml.MappingNode) else []:
        if str(key.value) not in known:
            line = key.start_mark.line + 1
            raise ValueError(f"{file.path}:{line}: unknown key {key.value!r} of {of}{_near(str(key.value), known)}")


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(known) or 'none'}"
