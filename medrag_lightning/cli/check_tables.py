"""The tables that a configuration names, built without torch, each with its place in the configuration."""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from medrag_lightning.cli.merged_config import MergedConfig
from medrag_lightning.data.audit.findings import Finding
from medrag_lightning.data.audit.table_reading import TROUBLE, NamedTable, Role
from medrag_lightning.yaml_files import fill_in

ROLES: tuple[Role, ...] = get_args(Role)
POSTPONED = {"check_images": (True, False), "missing_images": ("error", "ignore")}
"""Settings by which a table refuses rows whose image is missing, and how it does not: the look at the images finds them."""
MADE_OF = ("queries", "documents", "roots")


@dataclass(slots=True)
class BuiltTables:
    """Tables, and findings about those that could not be built."""

    tables: list[NamedTable] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def build_tables(config: MergedConfig, variables: Mapping[str, str] | None = None) -> BuiltTables:
    """Every table of `data`; one that stands in several lists with equal settings is built once."""
    built = BuiltTables()
    variables = {**(os.environ if variables is None else variables), "run_folder": "runs"}
    known: dict[str, int] = {}
    for role in ROLES:
        listed = config.get("data", "init_args", role) or []
        lines = config.lines_of_items("data", role)
        if not isinstance(listed, list):
            where = config.where("data", role)
            built.findings.append(
                Finding("table_settings", "error", where, f"data.{role} is not a list of tables", "write `- class_path: ...`")
            )
            continue
        for number, spec in enumerate(listed):
            where = lines[number] if number < len(lines) else f"data.init_args.{role}[{number}]"
            key = json.dumps(spec, sort_keys=True, default=str)
            if key in known:
                _add_role(built, known[key], role)
                continue
            made = _build(spec, where, role, variables)
            if isinstance(made, Finding):
                if made not in built.findings:
                    built.findings.append(made)
            else:
                known[key] = len(built.tables)
                built.tables.append(made)
    return built


def build_table(class_path: str, settings: Mapping[str, Any], where: str, roles: Sequence[Role]) -> NamedTable:
    """One table. ValueError names the class or the setting that is wrong."""
    made = _class(class_path)
    given = dict(settings)
    taken = inspect.signature(made).parameters
    for name in given:
        if name not in taken:
            near = difflib.get_close_matches(name, taken, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it takes {', '.join(taken)}"
            raise ValueError(f"{made.__name__} has no setting {name!r}{hint}")
    for name, one in taken.items():
        if one.default is one.empty and one.kind is not one.VAR_KEYWORD and name not in given:
            raise ValueError(f"{made.__name__} needs the setting {name!r}")
    for name, (strict, lenient) in POSTPONED.items():
        if name in taken and given.get(name, taken[name].default) == strict:
            given[name] = lenient
    table = made(**given)
    if missing := [name for name in MADE_OF if not callable(getattr(table, name, None))]:
        raise ValueError(f"{class_path} is no table: it has no {missing[0]}()")
    return NamedTable(table, where, frozenset(roles), tuple(_files(settings)))


def _build(spec: Any, where: str, role: Role, variables: Mapping[str, str]) -> NamedTable | Finding:
    if isinstance(spec, str):
        spec = {"class_path": spec}
    if not isinstance(spec, dict) or not isinstance(spec.get("class_path"), str):
        remedy = "write `- class_path: medrag_lightning.data.tables.NAME` and `init_args:` below it"
        return Finding("table_settings", "error", where, f"an item of data.{role} names no class_path", remedy)
    name = spec["class_path"].rsplit(".", 1)[-1]
    try:
        filled = fill_in(spec, variables, name)
        return build_table(spec["class_path"], filled.get("init_args") or {}, where, [role])
    except TROUBLE as error:
        remedy = "correct the setting in the config"
        if "environment variable" in str(error):
            remedy = "set it to the folder that holds the data sets"
        return Finding("table_settings", "error", where, str(error), remedy)


def _add_role(built: BuiltTables, number: int, role: Role) -> None:
    one = built.tables[number]
    built.tables[number] = NamedTable(one.table, one.where, one.roles | {role}, one.files)


def _class(class_path: str) -> type[Any]:
    """The class of that name; ValueError where there is none."""
    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module or "medrag_lightning.data.tables"), name, None)
    except ImportError as error:
        raise ValueError(f"{class_path} cannot be imported: {error}") from error
    if not isinstance(found, type):
        from medrag_lightning.data import tables

        near = difflib.get_close_matches(name, tables.__all__, n=1, cutoff=0.5)
        hint = f"did you mean medrag_lightning.data.tables.{near[0]}?" if near else f"there are {', '.join(tables.__all__)}"
        raise ValueError(f"there is no class {class_path}; {hint}")
    return found


def _files(settings: Any) -> list[Path]:
    """Every file that settings name."""
    if isinstance(settings, str):
        try:
            path = Path(settings).expanduser()
            return [path] if path.is_file() else []
        except (OSError, ValueError):
            return []
    items = settings.values() if isinstance(settings, Mapping) else settings if isinstance(settings, list | tuple) else ()
    return [path for item in items for path in _files(item)]
