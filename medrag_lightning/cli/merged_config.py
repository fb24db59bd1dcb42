"""Config files merged as the verbs merge them, without importing anything heavy: for verbs that only look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from medrag_lightning.cli.config_files import ConfigFile


@dataclass(frozen=True, slots=True)
class MergedConfig:
    """The merged settings, and where each was set.

    Attributes:
        values: nested mappings and lists, placeholders not filled in.
        files: from which they come, in order.
    """

    values: dict[str, Any]
    files: tuple[ConfigFile, ...]

    def get(self, *keys: str) -> Any:
        """The value under nested keys; None where there is none."""
        found: Any = self.values
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def where(self, *keys: str) -> str:
        """``file:line`` of the last file that sets the keys, looking through ``init_args``; the key where none does."""
        for file in reversed(self.files):
            if line := file.line_of(keys):
                return f"{file.path}:{line}"
        return ".".join(keys)

    def lines_of_items(self, *keys: str) -> list[str]:
        """``file:line`` of each item of the list under nested keys, as the files replace it and append to it."""
        lines: list[str] = []
        for file in self.files:
            for node, appends in _nodes(file.node, keys):
                items = node.value if isinstance(node, yaml.SequenceNode) else []
                mine = [f"{file.path}:{item.start_mark.line + 1}" for item in items]
                lines = [*lines, *mine] if appends else mine
        return lines


def merge(files: Sequence[ConfigFile], arguments: Sequence[str] = ()) -> MergedConfig:
    """The settings of `files`, later ones over earlier ones, and ``--KEY VALUE`` arguments over all.

    Mappings merge, lists replace, ``key+:`` appends; another class_path takes nothing over from the one before it.
    """
    values: dict[str, Any] = {}
    for file in files:
        if file.node is not None:
            values = _over(values, yaml.safe_load(file.path.read_text(encoding="utf-8")))
    for key, value in settings(arguments):
        nested: Any = value
        for part in reversed(_full_keys(key, values)):
            nested = {part: nested}
        values = _over(values, nested)
    return MergedConfig(values, tuple(files))


def settings(arguments: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Key and value of each ``--KEY VALUE`` or ``--KEY=VALUE``. ValueError for anything else, or a value that is not YAML."""
    left = iter(arguments)
    for word in left:
        if not word.startswith("--"):
            raise ValueError(f"{word!r} is not understood here; settings are written --KEY VALUE")
        key, equals, text = word.removeprefix("--").partition("=")
        told = text if equals else next(left, None)
        if told is None:
            raise ValueError(f"--{key} needs a value")
        try:
            yield key, yaml.safe_load(told)
        except yaml.YAMLError as error:
            raise ValueError(f"--{key}: {told!r} is not a valid value: {error}") from error


def _over(lower: Any, upper: Any) -> Any:
    """`upper` over `lower`."""
    if not isinstance(upper, dict) or not isinstance(lower, dict):
        return _without_plus(upper)
    if "class_path" in upper and upper["class_path"] != lower.get("class_path", upper["class_path"]):
        return _without_plus(upper)
    merged = dict(lower)
    for key, value in upper.items():
        if isinstance(key, str) and key.endswith("+"):
            added = value if isinstance(value, list) else [value]
            merged[key[:-1]] = [*(merged.get(key[:-1]) or []), *added]
        else:
            merged[key] = _over(merged.get(key), value)
    return merged


def _without_plus(value: Any) -> Any:
    return {str(key).removesuffix("+"): item for key, item in value.items()} if isinstance(value, dict) else value


def _full_keys(key: str, values: Mapping[str, Any]) -> list[str]:
    """The parts of a dotted key, with ``init_args`` put in where the class's settings are meant: ``data.only``."""
    parts: list[str] = []
    found: Any = values
    for part in key.split("."):
        if isinstance(found, dict) and "class_path" in found and part not in ("class_path", "init_args", "dict_kwargs"):
            parts.append("init_args")
            found = found.get("init_args")
        parts.append(part)
        found = found.get(part.removesuffix("+")) if isinstance(found, dict) else None
    return parts


def _nodes(node: yaml.Node | None, keys: Sequence[str]) -> Iterator[tuple[yaml.Node, bool]]:
    """The nodes under nested keys, looking through ``init_args``, and whether each appends (``key+:``)."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else []:
        name = str(key.value)
        if name.removesuffix("+") == keys[0]:
            if len(keys) == 1:
                yield value, name.endswith("+")
            else:
                yield from _nodes(value, keys[1:])
        elif name == "init_args":
            yield from _nodes(value, keys)
