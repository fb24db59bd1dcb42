"""Config files: found by path or short name, read with their line numbers, checked before anything heavy is imported."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from medrag_lightning.yaml_files import compose_yaml

BASE = "base"
DEFAULT_MODEL = ("stages/reader_raft", "readers/tiny")
DEFAULT = (*DEFAULT_MODEL, "data/minihospital", "smoke")
SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file and its YAML nodes, which know their lines."""

    path: Path
    node: yaml.MappingNode | None  # None: an empty file

    def top_keys(self) -> Iterator[tuple[str, int]]:
        """Its top-level keys, with their line numbers from 1."""
        for key, _ in self.node.value if self.node is not None else []:
            yield str(key.value), key.start_mark.line + 1

    def line_of(self, keys: tuple[str, ...], class_path: str | None = None) -> int | None:
        """The line of the last of nested `keys`, from 1; None if it is not there.

        ``init_args`` and list items are looked through; of a list, items of `class_path` come first.
        """
        return _line(self.node, keys, class_path)


def config_folder() -> Path:
    """Where the shipped config files lie: inside the installed package, or beside it in a source tree."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def short_names() -> list[str]:
    """The short names of the shipped files: relative to `config_folder`, without suffix."""
    folder = config_folder()
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in SUFFIXES]
    return [path.relative_to(folder).with_suffix("").as_posix() for path in files]


def read_all(names: Sequence[str], model_given: bool = False) -> list[ConfigFile]:
    """The base file, the default stage unless `names` or `model_given` bring one, and the files that `names` mean, in order.

    The default stage comes with the default reader, whose settings must not meet those of another one, unless a file names
    its own. Without names: the default, which needs no data.
    """
    files = [read_config(find_config(name)) for name in names or DEFAULT]
    if names and not model_given and not any(file.line_of(("model", "class_path")) for file in files):
        reader_named = any(file.line_of(("model", "reader", "class_path")) for file in files)
        lacking = DEFAULT_MODEL[:1] if reader_named else DEFAULT_MODEL
        files = [*(read_config(find_config(name)) for name in lacking), *files]
    return [read_config(find_config(BASE)), *files]


def find_config(name: str) -> Path:
    """A file given by path, or by short name in the config folder. ValueError lists near matches."""
    given = Path(name)
    for path in (given, *_in_config_folder(given)):
        if path.is_file():
            return path
    known = short_names()
    bare = name.removesuffix(given.suffix) if given.suffix in SUFFIXES else name
    near = difflib.get_close_matches(bare, known, n=3, cutoff=0.5)
    near += [other for other in known if Path(other).name == Path(bare).name and other not in near]
    hint = f"did you mean {' or '.join(near)}?" if near else f"shipped ones: {', '.join(known)}"
    raise ValueError(f"config file {name!r} not found, neither here nor in {config_folder()}; {hint}")


def _in_config_folder(given: Path) -> list[Path]:
    folder = config_folder()
    relative = Path(*given.parts[1:]) if given.parts[:1] == ("configs",) else given
    names = [relative] if relative.suffix in SUFFIXES else [Path(f"{relative}{suffix}") for suffix in SUFFIXES]
    return [folder / name for name in names]


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The values of ``-c``/``--config``, in order, and all other arguments."""
    names: list[str] = []
    rest: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument in ("-c", "--config"):
            value = next(left, None)
            if value is None:
                raise ValueError(f"{argument} needs a file name")
            names.append(value)
        elif argument.startswith("--config="):
            names.append(argument.removeprefix("--config="))
        else:
            rest.append(argument)
    return names, rest


def read_config(path: Path) -> ConfigFile:
    """Reads one file. ValueError names file, line and column of a syntax error, a repeated key, a wrong top level or a bomb."""
    node = compose_yaml(path)
    if node is not None and not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{path}:{node.start_mark.line + 1}: expected `key: value` pairs at the top of a config file")
    if node is not None:
        _refuse_repeated_keys(path, node)
    return ConfigFile(path, node)


def check_top_level(files: Sequence[ConfigFile], known: Sequence[str]) -> None:
    """ValueError that names file, line and nearest key for the first top-level key not in `known`."""
    for file in files:
        for key, line in file.top_keys():
            if key.removesuffix("+") not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"{file.path}:{line}: unknown key {key!r}{hint} Known keys: {', '.join(known)}")


def refuse_own_seeds(files: Sequence[ConfigFile], arguments: Sequence[str]) -> None:
    """Stage and data take their seed from `seed_everything`; ValueError where one is set beside it, for it would be ignored."""
    for part in ("model", "data"):
        places = [f"{file.path}:{line}" for file in files if (line := file.line_of((part, "seed")))]
        places += [word for word in arguments if word.split("=")[0] in (f"--{part}.init_args.seed", f"--{part}.seed")]
        if places:
            raise ValueError(f"{places[0]}: the seed of {part} is that of the run; set seed_everything instead")


def _refuse_repeated_keys(path: Path, node: yaml.Node) -> None:
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = str(key.value)
            if name in lines and name != "<<":
                raise ValueError(f"{path}:{line}: key {name!r} stands twice, first in line {lines[name]}")
            lines[name] = line
            _refuse_repeated_keys(path, value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(path, item)


def _line(node: yaml.Node | None, keys: tuple[str, ...], class_path: str | None) -> int | None:
    """The line of the last key, looking through ``init_args`` and the items of lists."""
    if isinstance(node, yaml.SequenceNode):
        items = sorted(node.value, key=lambda item: _class_of(item) != class_path)
        return next((line for item in items if (line := _line(item, keys, class_path))), None)
    if not isinstance(node, yaml.MappingNode):
        return None
    for key, value in node.value:
        if str(key.value).removesuffix("+") == keys[0]:
            found = key.start_mark.line + 1 if len(keys) == 1 else _line(value, keys[1:], class_path)
            if found:
                return int(found)
        elif key.value == "init_args" and (found := _line(value, keys, class_path)):
            return int(found)
    return None


def _class_of(node: yaml.Node) -> str | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((str(value.value) for key, value in pairs if key.value == "class_path"), None)
