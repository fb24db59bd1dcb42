"""A small, strict validator of JSON against the part of JSON Schema (draft 2020-12) that bundles use. Standard library only.

An unknown keyword in a schema is an error, never ignored: what is not checked here cannot stand in a schema by mistake.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_KNOWN = frozenset({"$schema", "$id", "$defs", "$ref", "title", "description", "type", "const", "enum", "anyOf"}) | {
    *("properties", "required", "additionalProperties", "items", "minItems"),
    *("minimum", "exclusiveMinimum", "maximum", "minLength", "maxLength"),
}
MOST_BYTES, DEEPEST = 64 << 20, 64


def read_json_limited(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """JSON of a file whose size and depth are looked at first; ValueError for what no bundle writes.

    Repeated keys, NaN and infinities are refused, too.
    """
    if path.is_symlink() or not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    if path.stat().st_size > most_bytes:
        raise ValueError(f"{path}: {path.stat().st_size} bytes of JSON, more than the {most_bytes} that are read")
    return parse_json_limited(path.read_bytes(), str(path))


def parse_json_limited(data: bytes, where: str) -> Any:
    """JSON of some bytes, with the same refusals."""
    try:
        text = data.decode("utf-8")
        _check_depth(text, where)
        return json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, where), parse_constant=lambda _: _refuse(where))
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 text: {error.reason}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}:{error.lineno}: not valid JSON: {error.msg}") from error


def validate(value: Any, schema: Mapping[str, Any], where: str = "$") -> list[str]:
    """In words, each place where `value` is not as `schema` says; empty where it is."""
    return _faults(value, schema, schema, where)


def _faults(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> list[str]:
    if unknown := sorted(set(schema) - _KNOWN):
        raise ValueError(f"the schema uses the keyword {unknown[0]!r}, which is not known here")
    if "$ref" in schema:
        return _faults(value, _resolved(schema["$ref"], root), root, where)
    if "anyOf" in schema:
        fitting = [one for one in schema["anyOf"] if _may_be(value, one, root)]
        if not fitting:
            return [f"{where}: {_shown(value['kind'])} is no kind that is known here"]
        tried = [_faults(value, one, root, where) for one in fitting]
        return [] if any(not faults for faults in tried) else min(tried, key=len)
    faults = []
    kinds = schema.get("type")
    if kinds is not None and not any(_is(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        return [f"{where}: {_shown(value)} is not of type {kinds}"]
    if "const" in schema and not _same(value, schema["const"]):
        return [f"{where}: {_shown(value)} is not {schema['const']!r}"]
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        return [f"{where}: {_shown(value)} is none of {schema['enum']}"]
    if isinstance(value, dict):
        faults += _object_faults(value, schema, root, where)
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            faults.append(f"{where}: fewer than {schema['minItems']} items")
        for place, item in enumerate(value if "items" in schema else []):
            faults += _faults(item, schema["items"], root, f"{where}[{place}]")
    return faults + _range_faults(value, schema, where)


def _object_faults(value: dict[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> list[str]:
    known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    faults = [f"{where}: {name!r} is missing" for name in schema.get("required", []) if name not in value]
    for name, item in value.items():
        if name in known:
            faults += _faults(item, known[name], root, f"{where}.{name}")
        elif more is False:
            faults.append(f"{where}: {name!r} is not known")
        elif isinstance(more, Mapping):
            faults += _faults(item, more, root, f"{where}.{name}")
    return faults


def _range_faults(value: Any, schema: Mapping[str, Any], where: str) -> list[str]:
    faults = []
    if isinstance(value, int | float) and not isinstance(value, bool):
        wrong = (
            not math.isfinite(value)
            or value < schema.get("minimum", -math.inf)
            or value > schema.get("maximum", math.inf)
            or value <= schema.get("exclusiveMinimum", -math.inf)
        )
        faults += [f"{where}: {value} is out of range"] if wrong else []
    if isinstance(value, str) and not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf):
        faults.append(f"{where}: a text of {len(value)} characters is too short or too long")
    return faults


def _may_be(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    """Whether a choice may fit: not where it is of another ``kind``. Else nested choices would be tried without end."""
    if "$ref" in schema:
        return _may_be(value, _resolved(schema["$ref"], root), root)
    if "anyOf" in schema:
        return any(_may_be(value, one, root) for one in schema["anyOf"])
    kind = schema.get("properties", {}).get("kind", {})
    return not ("const" in kind and isinstance(value, dict) and "kind" in value and not _same(value["kind"], kind["const"]))


def _resolved(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    name = reference.removeprefix("#/$defs/")
    if name == reference or name not in root.get("$defs", {}):
        raise ValueError(f"the schema refers to {reference!r}, which is not in it")
    found: Mapping[str, Any] = root["$defs"][name]
    return found


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _TYPES[kind]) and (kind in ("boolean",) or not isinstance(value, bool))


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and bool(value == other)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_depth(text: str, where: str) -> None:
    """The parser recurses; so the depth of brackets outside strings is counted before it sees the text."""
    depth, inside, escaped = 0, False, False
    for letter in text:
        if inside:
            inside, escaped = escaped or letter != '"', letter == "\\" and not escaped
        elif letter == '"':
            inside = True
        elif letter in "[{":
            depth += 1
            if depth > DEEPEST:
                raise ValueError(f"{where}: brackets nest deeper than {DEEPEST}")
        elif letter in "]}":
            depth -= 1


def _once(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError(f"{where}: a key stands twice in one object")
    return made


def _refuse(where: str) -> Any:
    raise ValueError(f"{where}: NaN or infinity, which JSON does not have")
