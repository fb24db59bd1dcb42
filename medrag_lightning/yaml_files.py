"""YAML files, read as a tree first: what would unfold to something huge is refused before anything unfolds it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 4 << 20
MAX_VALUES = 1_000_000
MAX_DEPTH = 60
VARIABLE = re.compile(r"\$\{(\w+)\}")


def compose_yaml(path: str | Path) -> yaml.Node | None:
    """The YAML nodes of a file, which know their lines; None for an empty one. No tag runs anything.

    Aliases are cheap to write and dear to unfold: ten lines of nine aliases each stand for a thousand million values. So the
    values are counted as if every alias were written out.

    Raises:
        ValueError: names file, line and column of a syntax error; or the file has more than `MAX_BYTES`, is nested deeper
            than `MAX_DEPTH`, contains itself, or unfolds to more than `MAX_VALUES` values.
    """
    path = Path(path)
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: more than {MAX_BYTES >> 20} MiB; a config file is a few pages of text")
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ValueError(f"{path}{where}: not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: nested deeper than {MAX_DEPTH} levels; no config file is") from error
    if node is not None:
        _count(path, node, {}, 0)
    return node


def fill_in(value: Any, variables: Mapping[str, str], where: str) -> Any:
    """`value` with every ``${NAME}`` below it replaced. ValueError names the variable that is not set, and `where`."""
    if isinstance(value, str):
        for name in VARIABLE.findall(value):
            if name not in variables:
                raise ValueError(f"{where}: {value}: the environment variable {name} is not set: export {name}=...")
        return VARIABLE.sub(lambda match: variables[match[1]], value)
    if isinstance(value, list):
        return [fill_in(item, variables, where) for item in value]
    if isinstance(value, dict):
        return {key: fill_in(item, variables, where) for key, item in value.items()}
    return value


def _count(path: Path, node: yaml.Node, known: dict[int, int | None], depth: int) -> int:
    """How many values a node stands for; `known` holds finished nodes, and None for those that are being counted."""
    where = f"{path}:{node.start_mark.line + 1}"
    if depth > MAX_DEPTH:
        raise ValueError(f"{where}: nested deeper than {MAX_DEPTH} levels; no config file is")
    if id(node) in known:
        told = known[id(node)]
        if told is None:
            raise ValueError(f"{where}: the value contains itself through an alias")
        return told
    known[id(node)] = None
    inside = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else []
    inside = list(node.value) if isinstance(node, yaml.SequenceNode) else inside
    count = 1
    for part in inside:
        count += _count(path, part, known, depth + 1)
        if count > MAX_VALUES:
            raise ValueError(f"{where}: its aliases unfold to more than {MAX_VALUES} values; write out what is meant")
    known[id(node)] = count
    return count
