"""JSON Schema of settings, read off their own classes and types."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 255}
COUNT: Schema = {"type": "integer", "minimum": 1}
COUNT_OR_NULL: Schema = {"type": ["integer", "null"], "minimum": 1}


def of_class(kind: type, may_lack: Sequence[str] = ()) -> Schema:
    """The schema of a dataclass's settings: every field but those that earlier bundles `may_lack`, and none besides."""
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    return of_object({field.name: of_type(hints[field.name]) for field in fields(kind)}, may_lack)


def of_type(kind: Any) -> Schema:
    """The schema of a setting's type: plain types, choices, lists, mappings, unions of them."""
    plain = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    if kind in plain:
        return {"type": plain[kind]}
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [of_type(one) for one in inner]}
    if origin in (list, tuple):
        return {"type": "array", "items": of_type(inner[0])}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": of_type(inner[1])}
    assert is_dataclass(kind), f"no schema for {kind}"
    return of_class(kind)  # type: ignore[arg-type]


def of_object(properties: Mapping[str, Any], may_lack: Sequence[str] = ()) -> Schema:
    """An object with these properties, each of which must be there unless it is one of `may_lack`, and no others."""
    required = [name for name in properties if name not in may_lack]
    return {"type": "object", "properties": dict(properties), "required": required, "additionalProperties": False}


def one_of(*names: str) -> Schema:
    """What is as one of these definitions says."""
    return {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in names]}
