"""How a bundle answers: what stands in ``system.json``, and the schema of it, read off the settings' own classes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from medrag_lightning.answering import Answerer
from medrag_lightning.batches import Steering
from medrag_lightning.handoff.bundle.guarantee import calibration_schema, describe_calibration
from medrag_lightning.handoff.bundle.json_schema import DIALECT, read_json_limited, validate
from medrag_lightning.handoff.bundle.layout import CANDIDATE_RERANKER, SCHEMA, SYSTEM
from medrag_lightning.handoff.bundle.rewriters import rewriter_schema, rewriter_spec
from medrag_lightning.handoff.bundle.settings_schema import (
    COUNT,
    FLAG,
    NAME,
    Schema,
    of_class,
    of_object,
    of_type,
)
from medrag_lightning.handoff.bundle.source_schema import definitions
from medrag_lightning.mixture import GROUPS, Fusion
from medrag_lightning.prompts import ADDED, PromptTemplate
from medrag_lightning.reading.batch_reader import ClosedReading
from medrag_lightning.reading.raft_collator import EvidenceLayout


def describe_system(
    answerer: Answerer, reader: Schema, source: Schema, generator: Schema | None, candidate_reranker: Schema | None = None
) -> dict[str, Any]:
    """The settings of an answerer as plain JSON; the other arguments are the entries of what was written."""
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
    told |= {} if generator is None else {"generator": generator}  # without one, earlier versions can load it, too
    rewriter = rewriter_spec(answerer.dialogues.rewriter)
    told |= {} if rewriter is None else {"rewriter": rewriter}
    told |= {} if answerer.calibration is None else {"calibration": describe_calibration(answerer.calibration)}
    told |= {} if answerer.tracer is None else {"tracer": {"max_new_tokens": answerer.tracer.max_new_tokens}}
    told |= {} if candidate_reranker is None else {"candidate_reranker": candidate_reranker}
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
    reader = {"anyOf": [_merged(), _adapter()]}
    settings = {
        "schema": {"const": SCHEMA},
        "reader": reader,
        "source": {"$ref": "#/$defs/source"},
        "template": of_class(PromptTemplate, ADDED),
        "evidence": of_type(EvidenceLayout),
        "fusion": of_class(Fusion),
        "max_new_tokens": COUNT,
        "closed_answers": of_type(ClosedReading),
        "low_margin": number,
        "steering": {"anyOf": [{"type": "null"}, of_class(Steering)]},
        "abstain_below": {"anyOf": [{"type": "null"}, number]},
        "generator": _generator(reader),
        "rewriter": rewriter_schema(),
        "calibration": calibration_schema(),
        "tracer": of_object({"max_new_tokens": COUNT}),
        "candidate_reranker": _candidate_reranker(),
    }
    title = "How a medrag_lightning bundle answers"
    shape = of_object(settings, ["generator", "rewriter", "calibration", "tracer", "candidate_reranker"])  # which it may lack
    return {"$schema": DIALECT, "title": title, **shape, "$defs": definitions()}


def _generator(reader: Schema) -> Schema:
    corpora = {"type": "array", "items": NAME, "minItems": 1}
    settings = {"reader": reader, "template": of_class(PromptTemplate, ADDED), "corpora": corpora, "max_new_tokens": COUNT}
    return of_object(settings)


def _candidate_reranker() -> Schema:
    scales = {"type": "array", "items": {"type": "number"}}
    gate = {"anyOf": [{"type": ["number", "null"], "minimum": 0, "maximum": 1}, {"enum": ["learned", "by_question"]}]}
    settings = {
        "features": {"type": "array", "items": {"enum": list(GROUPS)}, "minItems": 1},
        "gate": gate,
        "width": COUNT | {"maximum": 4096},
        "heads": COUNT,
        "dropout": {"type": "number", "minimum": 0, "maximum": 1},
        "sees_question": FLAG,
    }
    told = {"settings": of_object(settings), "names": {"type": "array", "items": NAME}, "mean": scales, "std": scales}
    return of_object({"description": of_object(told), "file": {"const": CANDIDATE_RERANKER}})


def _merged() -> Schema:
    return of_object({"kind": {"const": "merged"}, "folder": NAME, **_reader()})


def _adapter() -> Schema:
    text = {"type": ["string", "null"]}
    names = {"name": NAME, "revision": text, "commit": text, "quantization": {"enum": [None, "nf4"]}}
    base = {"anyOf": [of_object({"folder": NAME}), of_object(names)]}
    return of_object({"kind": {"const": "adapter"}, "adapter": NAME, "base": base, **_reader()})


def _reader() -> Schema:
    dtype = {"enum": ["float32", "bfloat16", "float16", "auto"]}
    learned = {"anyOf": [{"type": "null"}, NAME]}
    return {"dtype": dtype, "max_image_side_px": COUNT, "learned_steering": learned}
