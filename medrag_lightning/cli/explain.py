"""jsonargparse's complaints in plain words: file and line, key, what was expected, the nearest valid key."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
import sys
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from medrag_lightning.cli.config_files import ConfigFile

MANY = 15  # settings that are no longer listed beside the nearest one
_CLASS_PROBLEM = re.compile(r"module '.*' has no attribute|No module named|Import path|.*does not correspond")
_TYPES = {
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "text",
    "<class 'NoneType'>": "null",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """What jsonargparse complained about: the keys down to it, the innermost class, the complaint, the value given."""

    keys: tuple[str, ...]
    class_path: str | None
    complaint: str
    value: str | None


def explain(message: str, files: Sequence[ConfigFile], arguments: Sequence[str]) -> str:
    """A message for the user about a configuration that does not parse."""
    fault = read_message(message)
    option, words = _in_words(fault)
    keys = (*fault.keys, *(option.split(".") if option else ()))
    where = _where(keys, fault, files, arguments)
    name = ".".join(keys)
    return f"{where}{name}: {words}" if name else f"{where}{words}"


def read_message(message: str) -> Fault:
    """Takes the nested message apart. The first complaint that is not a mere list of accepted types counts."""
    keys: list[str] = []
    class_path: str | None = None
    accepted: list[str] = []
    complaint = ""
    for line in message.splitlines():
        text = line.strip().removeprefix("- ").strip()
        if match := re.match(r'Parser key "([^"]+)":\s*(.*)', text):
            keys += [key for key in match[1].split(".") if key != "init_args"]
            text = match[2]
        if match := re.match(r"Problem with given class_path '([^']+)':\s*(.*)", text):
            class_path, text = match[1], match[2]
        if (match := re.fullmatch(r"Expected an? (\S.*?)", text)) and "Got value" not in text:
            accepted.append(match[1])
            continue
        if not text or re.match(r"Does not validate|Subtypes:|Errors:|Given value", text):
            continue
        complaint = text
        break
    given = re.search(r"Got value: (.*)", complaint) or re.search(r"^\s*Given value: (.*)", message, re.MULTILINE)
    complaint = complaint or f"Expected {' or '.join(dict.fromkeys(map(_plain, accepted)))}"
    return Fault(tuple(keys), class_path, complaint, given[1] if given else None)


def _in_words(fault: Fault) -> tuple[str, str]:
    """The key that is at fault below the fault's own keys, if any, and what to say."""
    text = fault.complaint
    if match := re.match(r"Subcommand '(\w+)' does not accept option '([^']+)'", text):
        parent, _, option = match[2].rpartition(".")
        known = _settings("lightning.Trainer") if parent == "trainer" else []
        return match[2], _not_known(option, known, parent or "the command")
    if match := re.match(r"Group '([^']+)' does not accept option '([^']+)'", text):
        known = _group_fields(fault.class_path, match[1])
        return f"{match[1]}.{match[2]}", _not_known(match[2].split(".")[-1], known, match[1])
    if match := re.match(r"Option '([^']+)' is not accepted", text):
        known = _settings(fault.class_path or "")
        return match[1], _not_known(match[1].split(".")[-1], known, _short(fault.class_path) or "it")
    if match := re.match(r"unrecognized arguments: --([\w.]+)=", text):
        first = match[1].split(".")[0]
        known = _settings(fault.class_path or "")
        if known and first not in known:
            return first, _not_known(first, known, _short(fault.class_path))
    if match := re.match(r"unrecognized arguments: (.*)", text):
        return "", f"not understood: {match[1]}"
    if match := re.match(r"the following arguments are required: (.*)", text):
        names = re.sub(r"\b(fit|validate|test|predict)\.", "", match[1])
        who = f" of {_short(fault.class_path)}" if fault.class_path else ""
        return "", f"missing, and without a default: {names}{who}"
    if _CLASS_PROBLEM.match(text):
        return "", _class_problem(fault)
    if match := re.match(r"Expected an? (.*?)\. Got value: (.*)", text):
        return "", f"expected {_plain(match[1])}, got {match[2]!r}"
    if text.startswith("Expected"):
        return "", f"{text[0].lower()}{text[1:]}, got {fault.value!r}"
    return "", text


def _not_known(option: str, known: Sequence[str], owner: str) -> str:
    near = difflib.get_close_matches(option, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    listed = f" {owner} takes: {', '.join(known)}" if known and not (near and len(known) > MANY) else ""
    return f"unknown setting{hint}{listed}"


def _class_problem(fault: Fault) -> str:
    if match := re.search(r"Import path (\S+) does not correspond to a subclass of (.*)", fault.complaint):
        return f"{match[1]} is not a kind of {match[2]}, which is needed here"
    path = fault.class_path or ""
    near = difflib.get_close_matches(path, _class_paths_near(path), n=1, cutoff=0.6)
    return f"no class {path!r} ({fault.complaint}){f'; did you mean {near[0]}?' if near else ''}"


def _class_paths_near(path: str) -> list[str]:
    """Classes of the module that was named, or of modules with a similar name beside it."""
    module, _, name = path.rpartition(".")
    try:
        found = importlib.import_module(module)
    except ImportError:
        return [f"{other}.{name}" for other in _sister_modules(module)]
    return [f"{module}.{member}" for member, _ in inspect.getmembers(found, inspect.isclass)]


def _sister_modules(module: str) -> Iterable[str]:
    parent, _, _ = module.rpartition(".")
    if not parent:
        return sorted({name.split(".")[0] for name in sys.modules} | {"callbacks", "medrag_lightning"})
    try:
        package = importlib.import_module(parent)
    except ImportError:
        return [f"{other}.{module.removeprefix(parent + '.')}" for other in _sister_modules(parent)]
    return [f"{parent}.{info.name}" for info in pkgutil.iter_modules(getattr(package, "__path__", []))]


def _load(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        return None


def _settings(class_path: str) -> list[str]:
    loaded = _load(class_path)
    if loaded is None:
        return []
    names = inspect.signature(loaded).parameters.values()
    return [p.name for p in names if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


def _group_fields(class_path: str | None, group: str) -> list[str]:
    """The fields of a dataclass-typed setting, which may lie deeper (``a.b``)."""
    kind = _load(class_path or "")
    for name in group.split("."):
        hints = typing.get_type_hints(kind.__init__ if inspect.isclass(kind) else kind) if kind else {}
        kind = next((t for t in (hints.get(name), *typing.get_args(hints.get(name))) if is_dataclass(t)), None)
    return [field.name for field in fields(kind)] if kind is not None and is_dataclass(kind) else []


def _plain(kind: str) -> str:
    if kind in _TYPES:
        return _TYPES[kind]
    if match := re.fullmatch(r"typing\.Literal\[(.*)\]", kind):
        return f"one of {match[1]}"
    return re.sub(r"<class '([^']+)'>", r"\1", kind)


def _short(class_path: str | None) -> str:
    return (class_path or "").rpartition(".")[2]


def _where(keys: tuple[str, ...], fault: Fault, files: Sequence[ConfigFile], arguments: Sequence[str]) -> str:
    """``file:line: `` of the last file that sets the key, or a note that the command line does."""
    class_key = (*fault.keys, "class_path")
    for wanted in (class_key, keys) if _CLASS_PROBLEM.match(fault.complaint) else (keys, class_key, fault.keys):
        dotted = ".".join(wanted)
        for argument in arguments:
            key = argument.split("=")[0].removeprefix("--").removesuffix("+").replace("init_args.", "")
            if argument.startswith("--") and dotted and key == dotted:
                return f"command line, {argument.split('=')[0]}: "
        for file in reversed(files):
            if wanted and (line := file.line_of(wanted, fault.class_path)):
                return f"{file.path}:{line}: "
    return ""
