"""The command line of `check`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from medrag_lightning.cli.config_files import split_arguments

Part = Literal["data", "leaks", "config", "machine", "plan"]
PARTS: tuple[Part, ...] = get_args(Part)
SHOWN = 10


@dataclass(frozen=True, slots=True)
class Options:
    """What is to be checked, and how.

    Attributes:
        configs: config files.
        tables: bare table files.
        settings: ``--KEY VALUE`` words that change the configuration.
        parts: which parts were asked for; empty for all that make sense.
        json: where to write findings.
        shown: places shown a kind; 0 for all.
        workers: processes that open images; None for one a processor.
        cache: whether facts of images are kept.
    """

    configs: tuple[str, ...]
    tables: tuple[Path, ...]
    settings: tuple[str, ...]
    parts: tuple[Part, ...]
    json: Path | None = None
    shown: int = SHOWN
    workers: int | None = None
    cache: bool = True

    @property
    def words(self) -> list[str]:
        """The arguments that name the configuration, for other verbs."""
        return [*(word for config in self.configs for word in ("-c", config)), *self.settings]


def read_options(arguments: Sequence[str]) -> Options:
    """Reads the words after ``check``. ValueError for what is not understood."""
    configs, rest = split_arguments(arguments)
    words = _Words(list(rest), configs=list(configs))
    while words.left:
        words.take()
    if words.tables and (words.configs or words.settings):
        raise ValueError(f"check: {words.tables[0]} is a table, and -c names tables of its own; check them one after the other")
    shown = _number(words.own, "--max_findings")
    return Options(
        configs=tuple(words.configs),
        tables=tuple(words.tables),
        settings=tuple(words.settings),
        parts=tuple(dict.fromkeys(words.parts)),
        json=Path(words.own["--json"]) if "--json" in words.own else None,
        shown=SHOWN if shown is None else shown,
        workers=_number(words.own, "--workers"),
        cache="--no_cache" not in words.own,
    )


@dataclass(slots=True)
class _Words:
    """The words that are left, and what those before them were."""

    left: list[str]
    configs: list[str]
    tables: list[Path] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    own: dict[str, str] = field(default_factory=dict)

    def take(self) -> None:
        """The next word, with the values that belong to it."""
        word = self.left.pop(0)
        name, equals, value = word.partition("=")
        if name == "--only":
            self.parts += _parts([value] if equals else list(_taken(self.left)))
        elif name in ("--json", "--max_findings", "--workers"):
            if not equals and not self.left:
                raise ValueError(f"check: {name} needs a value")
            self.own[name] = value if equals else self.left.pop(0)
        elif word == "--no_cache":
            self.own[word] = ""
        elif word.startswith("--"):
            self.settings.append(word)
            if not equals and self.left:
                self.settings.append(self.left.pop(0))
        elif word.startswith("-"):
            raise ValueError(f"check: {word!r} is not understood; see check --help")
        elif Path(word).suffix in (".yaml", ".yml"):
            self.configs.append(word)
        else:
            self.tables.append(Path(word))


def _taken(words: list[str]) -> Iterator[str]:
    """The words that follow ``--only`` and name parts; the first must."""
    first = True
    while words and (first or all(name in PARTS for name in words[0].split(","))):
        yield words.pop(0)
        first = False


def _parts(words: Sequence[str]) -> list[Part]:
    names = [name for word in words for name in word.split(",")]
    unknown = [name for name in names if name not in PARTS]
    if unknown or not names:
        told = f"{unknown[0]!r} is no part" if unknown else "--only needs the name of a part"
        raise ValueError(f"check: {told}; there are {', '.join(PARTS)}")
    return [part for part in PARTS if part in names]


def _number(own: dict[str, str], name: str) -> int | None:
    if name not in own:
        return None
    if not own[name].isdigit():
        raise ValueError(f"check: {name} must be a whole number from 0, got {own[name]!r}")
    return int(own[name])
