"""How a bundle answers: what stands in ``system.json``, and the schema of it, read off the settings' own classes."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from medrag_lightning.answering import Answerer
from medrag_lightning.batches import Steering
from medrag_lightning.handoff.bundle.json_schema import DIALECT, read_json_limited, validate
from medrag_lightning.handoff.bundle.layout import SCHEMA, SYSTEM
from medrag_lightning.mixture import Fusion
from medrag_lightning.prompts import ADDED, PromptTemplate
from medrag_lightning.reading.batch_reader import ClosedReading
from medrag_lightning.reading.raft_collator import EvidenceLayout
from medrag_lightning.retrieval.index import IndexConfig
from medrag_lightning.retrieval.store import VectorType
from medrag_lightning.selection import Selection

Schema = dict[str, Any]
_FILE: Schema = {"type": "string", "minLength": 1, "maxLength": 255}
_COUNT: Schema = {"type": "integer", "minimum": 1}
_COUNT_OR_NULL: Schema = {"type": ["integer", "null"], "minimum": 1}
_CHANNELS: Schema = {"enum": ["image_to_image", "image_to_text", "text_to_text", "text_to_image"]}


def describe_system(answerer: Answerer, reader: Schema, source: Schema) -> dict[str, Any]:
    """The settings of an answerer as plain JSON; `reader` and `source` are the entries of what was written."""
    batch, steering = answerer.batch_reader, answerer.collate.steering.get("")
    told = {
        "schema": SCHEMA,
        "reader": reader,
        "source": source,
        "template": asdict(answerer.collate.template),
        "evidence": "one_per_prompt" if answerer.collate.one_per_prompt else "all_in_one_prompt",
        "fusion": asdict(batch.fusion),
        "max_new_tokens": batch.max_new_tokens,
        "closed_answers": batch.closed,
        "low_margin": answerer.low_margin,
        "steering": None if steering is None else asdict(steering),
        "abstain_below": None,
    }
    assert not validate(told, system_schema()), validate(told, system_schema())
    return told


def read_system(bundle: Path) -> dict[str, Any]:
    """The settings of a bundle; ValueError that names each place that is not as this version's schema says."""
    told = read_json_limited(bundle / SYSTEM)
    if faults := validate(told, system_schema()):
        raise ValueError(
            f"{bundle / SYSTEM} is not of schema {SCHEMA}: {'; '.join(faults[:5])}. "
            "Was it written by another version of medrag_lightning, or changed by hand?"
        )
    found: dict[str, Any] = told
    return found


def system_schema() -> Schema:
    """JSON Schema (draft 2020-12) of ``system.json``."""
    number = {"type": "number", "minimum": 0, "maximum": 1}
    settings = {
        "schema": {"const": SCHEMA},
        "reader": {"anyOf": [_merged(), _adapter()]},
        "source": {"$ref": "#/$defs/source"},
        "template": of_class(PromptTemplate, ADDED),
        "evidence": of_type(EvidenceLayout),
        "fusion": of_class(Fusion),
        "max_new_tokens": _COUNT,
        "closed_answers": of_type(ClosedReading),
        "low_margin": number,
        "steering": {"anyOf": [{"type": "null"}, of_class(Steering)]},
        "abstain_below": {"anyOf": [{"type": "null"}, number]},
    }
    title = "How a medrag_lightning bundle answers"
    return {"$schema": DIALECT, "title": title, **_object(settings), "$defs": _sources() | _encoders()}


def of_class(kind: type, may_lack: Sequence[str] = ()) -> Schema:
    """The schema of a dataclass's settings: every field but those that earlier bundles `may_lack`, and none besides."""
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    return _object({field.name: of_type(hints[field.name]) for field in fields(kind)}, may_lack)


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


def _object(properties: Mapping[str, Any], may_lack: Sequence[str] = ()) -> Schema:
    required = [name for name in properties if name not in may_lack]
    return {"type": "object", "properties": dict(properties), "required": required, "additionalProperties": False}


def _merged() -> Schema:
    return _object({"kind": {"const": "merged"}, "folder": _FILE, **_reader()})


def _adapter() -> Schema:
    text = {"type": ["string", "null"]}
    names = {"name": _FILE, "revision": text, "commit": text, "quantization": {"enum": [None, "nf4"]}}
    base = {"anyOf": [_object({"folder": _FILE}), _object(names)]}
    return _object({"kind": {"const": "adapter"}, "adapter": _FILE, "base": base, **_reader()})


def _reader() -> Schema:
    dtype = {"enum": ["float32", "bfloat16", "float16", "auto"]}
    learned = {"anyOf": [{"type": "null"}, _FILE]}
    return {"dtype": dtype, "max_image_side_px": _COUNT, "learned_steering": learned}


def _sources() -> Schema:
    live = {
        "kind": {"const": "live"},
        "encoder": {"$ref": "#/$defs/encoder"},
        "per_channel": {"type": "object", "additionalProperties": _COUNT},
        "index": of_class(IndexConfig),
        "dtype": of_type(VectorType),
        "batch_size": _COUNT,
        "distinct_documents": {"type": "boolean"},
        "distinct_texts": {"type": "boolean"},
        "corpus": {"type": "string"},
    }
    one, standardise = {"type": "number"}, {"type": "boolean"}
    weights = {"type": "object", "additionalProperties": one}
    fixed = _object({"kind": {"const": "fixed"}, "weights": weights, "standardise": standardise})
    modalities = {"type": "array", "items": {"type": "string"}}
    learned = {"kind": {"const": "weighted"}, "settings": _fusion_settings(), "modalities": modalities, "file": _FILE}
    fused = {
        "kind": {"const": "fused"},
        "pool": {"$ref": "#/$defs/live"},
        "fusion": {"anyOf": [fixed, _object(learned)]},
        "top": _COUNT,
        "candidates": _COUNT_OR_NULL,
    }
    found = {"live": _object(live, ["corpus"]), "fused": _object(fused)}
    pool = {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in found]}
    found["selected"] = _object({"kind": {"const": "selected"}, "pool": pool, "rule": of_class(Selection)})
    part = {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in found]}
    both = _object({"kind": {"const": "knowledge"}, "reports": part, "documents": part})
    names = {"type": "array", "items": _FILE, "minItems": 1}
    named = {"type": "array", "items": _object({"name": _FILE, "of": names, "source": part}), "minItems": 1}
    corpora = _object({"kind": {"const": "corpora"}, "parts": named})
    return found | {"source": {"anyOf": [_object({"kind": {"const": "none"}}), *part["anyOf"], both, corpora]}}


def _fusion_settings() -> Schema:
    return _object(
        {
            "channels": {"type": "array", "items": _CHANNELS, "minItems": 1},
            "scope": {"enum": ["global", "per_modality", "per_query"]},
            "constraint": {"enum": ["none", "softplus", "simplex"]},
            "standardise": {"type": "boolean"},
            "tau": {"type": "number", "exclusiveMinimum": 0},
            "learn_tau": {"type": "boolean"},
            "gate_width": _COUNT_OR_NULL,
        }
    )


def _encoders() -> Schema:
    number = {"type": "integer"}
    mix = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
    head = _object({"kind": {"enum": ["tower", "projection"]}, "mix": mix, "file": _FILE})
    towers = {
        "kind": {"const": "hf_towers"},
        "folder": _FILE,
        "dtype": {"enum": ["float32", "bfloat16", "float16"]},
        "image_size_px": _COUNT_OR_NULL,
        "max_text_tokens": _COUNT_OR_NULL,
    }
    plain = [
        _object({"kind": {"const": "tiny_dual"}, "dim": _COUNT, "seed": number}),
        _object({"kind": {"const": "tiny_towers"}, "folder": _FILE, "dim": _COUNT, "hidden": _COUNT}),
        _object(towers),
    ]
    heads = {"type": "object", "properties": {"text": head, "image": head}, "additionalProperties": False}
    headed = _object({"kind": {"const": "headed"}, "encoder": {"anyOf": plain}, "heads": heads})
    return {"encoder": {"anyOf": [*plain, headed]}}
