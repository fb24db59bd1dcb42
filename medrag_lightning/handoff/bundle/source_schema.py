"""JSON Schema of the source of evidence in ``system.json``: searches, re-rankers and encoders, by kind."""

from __future__ import annotations

from medrag_lightning.handoff.bundle.settings_schema import (
    COUNT,
    COUNT_OR_NULL,
    FLAG,
    NAME,
    TEXT,
    Schema,
    of_class,
    of_object,
    of_type,
    one_of,
)
from medrag_lightning.models.sentence_encoder import Pooling
from medrag_lightning.retrieval.index import IndexConfig
from medrag_lightning.retrieval.lexical_index import Bm25Settings
from medrag_lightning.retrieval.routed import Route
from medrag_lightning.retrieval.store import VectorType
from medrag_lightning.retrieval.words import WordSettings
from medrag_lightning.selection import Selection

CHANNELS: Schema = {"enum": ["image_to_image", "image_to_text", "text_to_text", "text_to_image"]}
DTYPE: Schema = {"enum": ["float32", "bfloat16", "float16"]}
SEARCHES = ("live", "fused", "lexical", "graph", "hybrid", "reranked", "selected", "routed")
"""Kinds of searches of one corpus: each may stand alone, as a part of another, or for a corpus among several."""


def definitions() -> dict[str, Schema]:
    """The definitions that ``#/$defs/source`` and the encoders in it refer to."""
    search = {"$ref": "#/$defs/search"}
    parts = _parts(search, NAME)
    source = [
        of_object({"kind": {"const": "none"}}),
        search,
        of_object({"kind": {"const": "knowledge"}, "reports": search, "documents": search}),
        of_object({"kind": {"const": "corpora"}, "parts": parts}),
    ]
    found = {"live": _live(), "fused": _fused(), "lexical": _lexical(), "graph": _graph()} | _of_pools(search)
    found["routed"] = _routed(search)
    assert set(found) == set(SEARCHES)
    return found | {"search": one_of(*SEARCHES), "source": {"anyOf": source}, "reranker": _reranker(), "encoder": _encoder()}


def _live() -> Schema:
    settings = {
        "kind": {"const": "live"},
        "encoder": {"$ref": "#/$defs/encoder"},
        "per_channel": {"type": "object", "additionalProperties": COUNT},
        "index": of_class(IndexConfig),
        "dtype": of_type(VectorType),
        "batch_size": COUNT,
        "distinct_documents": FLAG,
        "distinct_texts": FLAG,
        "corpus": TEXT,
    }
    return of_object(settings, ["corpus"])


def _fused() -> Schema:
    weights = {"type": "object", "additionalProperties": {"type": "number"}}
    fixed = of_object({"kind": {"const": "fixed"}, "weights": weights, "standardise": FLAG})
    modalities = {"type": "array", "items": TEXT}
    learned = {"kind": {"const": "weighted"}, "settings": _fusion(), "modalities": modalities, "file": NAME}
    pool, fusion = {"$ref": "#/$defs/live"}, {"anyOf": [fixed, of_object(learned)]}
    return of_object({"kind": {"const": "fused"}, "pool": pool, "fusion": fusion, "top": COUNT, "candidates": COUNT_OR_NULL})


def _fusion() -> Schema:
    return of_object(
        {
            "channels": {"type": "array", "items": CHANNELS, "minItems": 1},
            "scope": {"enum": ["global", "per_modality", "per_query"]},
            "constraint": {"enum": ["none", "softplus", "simplex"]},
            "standardise": FLAG,
            "tau": {"type": "number", "exclusiveMinimum": 0},
            "learn_tau": FLAG,
            "gate_width": COUNT_OR_NULL,
        }
    )


def _lexical() -> Schema:
    settings = {"words": of_class(WordSettings), "bm25": of_class(Bm25Settings), "distinct_texts": FLAG, "corpus": TEXT}
    return of_object({"kind": {"const": "lexical"}, "top": COUNT, **settings})


def _graph() -> Schema:
    settings = {
        "kind": {"const": "graph"},
        "top": COUNT,
        "relations": {"type": "integer", "minimum": 0},
        "priority": {"type": "array", "items": TEXT},
        "reranker": {"$ref": "#/$defs/reranker"},
        "blocks": {"enum": ["asked", "whole"]},
        "corpus": TEXT,
    }
    return of_object(settings)


def _of_pools(search: Schema) -> dict[str, Schema]:
    weight = {"type": "number", "exclusiveMinimum": 0}
    parts = {"type": "array", "items": of_object({"name": NAME, "weight": weight, "source": search}), "minItems": 2}
    hybrid = {"kind": {"const": "hybrid"}, "parts": parts, "top": COUNT, "k": {"type": "number", "minimum": 0}}
    read = {"reranker": {"$ref": "#/$defs/reranker"}, "keep": COUNT, "candidates": COUNT_OR_NULL, "corpus": TEXT}
    return {
        "hybrid": of_object(hybrid),
        "reranked": of_object({"kind": {"const": "reranked"}, "pool": search, **read}),
        "selected": of_object({"kind": {"const": "selected"}, "pool": search, "rule": of_class(Selection, ["calibration"])}),
    }


def _parts(search: Schema, kind: Schema) -> Schema:
    of = {"type": "array", "items": kind, "minItems": 1}
    return {"type": "array", "items": of_object({"name": NAME, "of": of, "source": search}), "minItems": 1}


def _routed(search: Schema) -> Schema:
    said = {"type": "object", "additionalProperties": {"type": "array", "items": TEXT, "minItems": 1}}
    encoder = {"$ref": "#/$defs/encoder"}
    temperature = {"type": "number", "exclusiveMinimum": 0}
    routers = [
        {"type": "null"},
        of_object({"kind": {"const": "linear"}, "encoder": encoder, "file": NAME}),
        of_object({"kind": {"const": "prompts"}, "encoder": encoder, "prompts": said, "temperature": temperature}),
    ]
    settings = {
        "kind": {"const": "routed"},
        "parts": _parts(search, TEXT),  # a modality may be empty: that of documents which tell none
        "route": of_type(Route),
        "router": {"anyOf": routers},
        "other": NAME,
        "min_probability": {"type": "number", "minimum": 0, "maximum": 1},
    }
    return of_object(settings)


def _reranker() -> Schema:
    read = {"max_tokens": COUNT, "batch_size": COUNT, "dtype": DTYPE}
    kinds = [
        of_object({"kind": {"const": "overlap"}}),
        of_object({"kind": {"const": "words"}, "file": NAME}),
        of_object({"kind": {"const": "cross_encoder"}, "folder": NAME, **read}),
    ]
    return {"anyOf": kinds}


def _encoder() -> Schema:
    mix = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
    head = of_object({"kind": {"enum": ["tower", "projection"]}, "mix": mix, "file": NAME})
    limits = {"image_size_px": COUNT_OR_NULL, "max_text_tokens": COUNT_OR_NULL}
    plain = [
        of_object({"kind": {"const": "tiny_dual"}, "dim": COUNT, "seed": {"type": "integer"}}),
        of_object({"kind": {"const": "tiny_towers"}, "folder": NAME, "dim": COUNT, "hidden": COUNT}),
        of_object({"kind": {"const": "hf_towers"}, "folder": NAME, "dtype": DTYPE, **limits}),
    ]
    heads = {"type": "object", "properties": {"text": head, "image": head}, "additionalProperties": False}
    headed = of_object({"kind": {"const": "headed"}, "encoder": {"anyOf": plain}, "heads": heads})
    norm = {"anyOf": [{"type": "null"}, {"type": "number", "exclusiveMinimum": 0}]}
    sentences = {
        "kind": {"const": "sentences"},
        "query": NAME,
        "document": {"anyOf": [{"type": "null"}, NAME]},
        "pooling": of_type(Pooling),
        "largest_norm": norm,
        "max_tokens": COUNT_OR_NULL,
        "max_query_tokens": COUNT_OR_NULL,
        "query_prefix": TEXT,
        "document_prefix": TEXT,
        "dtype": DTYPE,
        "batch_size": COUNT,
    }
    return {"anyOf": [*plain, headed, of_object(sentences)]}
