"""The source of evidence in a bundle: what finds candidates, as an entry in ``system.json`` and files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medrag_lightning.handoff.bundle.encoders import Spec, load_encoder, save_encoder
from medrag_lightning.handoff.bundle.fusion_files import load_fusion, save_fusion
from medrag_lightning.handoff.bundle.rerankers import load_reranker, save_reranker
from medrag_lightning.handoff.bundle.routers import load_router, save_router
from medrag_lightning.interfaces import CandidateSource
from medrag_lightning.records import Knowledge
from medrag_lightning.retrieval.candidates import Remembered
from medrag_lightning.retrieval.corpus_search import CorpusSearch
from medrag_lightning.retrieval.fused import FusedSearch
from medrag_lightning.retrieval.graph import GraphSearch
from medrag_lightning.retrieval.hybrid import HybridSearch
from medrag_lightning.retrieval.index import IndexConfig
from medrag_lightning.retrieval.knowledge_search import KnowledgeSearch
from medrag_lightning.retrieval.lexical import LexicalSearch
from medrag_lightning.retrieval.lexical_index import Bm25Settings
from medrag_lightning.retrieval.parted import PartedSearch
from medrag_lightning.retrieval.reranked import RerankedSearch
from medrag_lightning.retrieval.routed import RoutedSearch
from medrag_lightning.retrieval.selected import SelectedSearch
from medrag_lightning.retrieval.source import LiveSearch, NoEvidence
from medrag_lightning.retrieval.words import WordSettings
from medrag_lightning.selection import Selection

Leaf = LiveSearch | LexicalSearch | GraphSearch
"""A search with an index of its own."""
_LIVE = ("dtype", "batch_size", "distinct_documents", "distinct_texts", "corpus")


def save_source(source: Any, bundle: Path, name: str = "encoder") -> Spec:
    """Writes encoders, routers, re-rankers and fusion weights of a checked source; gives its entry in ``system.json``."""
    if isinstance(source, Remembered):
        return save_source(source.source, bundle, name)
    if isinstance(source, NoEvidence):
        return {"kind": "none"}
    if isinstance(source, Leaf):
        return _save_leaf(source, bundle, name)
    if isinstance(source, FusedSearch):
        pool, fusion = save_source(source.pool, bundle, name), save_fusion(source.fusion, bundle, name)
        return {"kind": "fused", "pool": pool, "fusion": fusion, "top": source.top, "candidates": source.candidates}
    if isinstance(source, SelectedSearch):
        return {"kind": "selected", "pool": save_source(source.pool, bundle, name), "rule": asdict(source.rule.settled())}
    if isinstance(source, RerankedSearch):
        pool, reranker = save_source(source.pool, bundle, name), save_reranker(source.reranker, bundle, name)
        told = {"keep": source.keep, "candidates": source.candidates, "corpus": source.corpus}
        return {"kind": "reranked", "pool": pool, "reranker": reranker, **told}
    if isinstance(source, HybridSearch):
        made = {part: save_source(one, bundle, f"{name}/{part}") for part, one in source.parts.items()}
        ranked = [{"name": part, "weight": source.weights[part], "source": told} for part, told in made.items()]
        return {"kind": "hybrid", "parts": ranked, "top": source.top, "k": source.k}
    if isinstance(source, RoutedSearch):
        return _save_routed(source, bundle, name)
    assert isinstance(source, CorpusSearch), "checked before"
    parts = {part: save_source(one, bundle, str(part)) for part, one in source.parts.items()}
    if isinstance(source, KnowledgeSearch):
        return {"kind": "knowledge"} | parts
    return {"kind": "corpora", "parts": _of_kinds(source, parts)}


def load_source(spec: Mapping[str, Any], bundle: Path, device: str) -> CandidateSource:
    """The source of an entry in ``system.json``; it knows no documents before `load`."""
    return _LOADERS[spec["kind"]](spec, bundle, device)


def searches(source: Any, place: str = "") -> list[tuple[str, Leaf]]:
    """Every search over an index of its own, and where that lies below the folder of the evidence."""
    if isinstance(source, Remembered):
        return searches(source.source, place)
    if isinstance(source, FusedSearch | SelectedSearch | RerankedSearch):
        return searches(source.pool, place)
    if isinstance(source, PartedSearch | HybridSearch):
        return [one for name, part in source.parts.items() for one in searches(part, f"{place}{name}/")]
    return [(place.rstrip("/"), source)] if isinstance(source, Leaf) else []


def vector_searches(source: Any) -> list[tuple[str, LiveSearch]]:
    """Of `searches`, those over vectors."""
    return [(place, one) for place, one in searches(source) if isinstance(one, LiveSearch)]


def extras_of(spec: Any) -> list[str]:
    """The extras of medrag_lightning without which an entry in ``system.json`` cannot be loaded."""
    kinds = {spec.get("kind")} if isinstance(spec, Mapping) else set()
    inner = spec.values() if isinstance(spec, Mapping) else spec if isinstance(spec, list) else ()
    found = {extra for one in inner for extra in extras_of(one)}
    return sorted(found | ({"text"} if kinds & {"lexical", "words"} else set()))


def _save_leaf(source: Leaf, bundle: Path, name: str) -> Spec:
    if isinstance(source, LexicalSearch):
        told: Spec = {"words": asdict(source.words), "bm25": asdict(source.bm25)}
        told |= {"distinct_texts": source.distinct_texts, "corpus": source.corpus}
        return {"kind": "lexical", "top": source.top, **told}
    if isinstance(source, GraphSearch):
        settings = {"relations": source.limit, "priority": source.priority, "blocks": source.blocks, "corpus": source.corpus}
        return {"kind": "graph", "top": source.top, "reranker": save_reranker(source.reranker, bundle, name), **settings}
    channels = {str(channel): count for channel, count in source.per_channel.items()}
    encoder = save_encoder(source.encoder, bundle, name)
    settings = {setting: getattr(source, setting) for setting in _LIVE}
    return {"kind": "live", "encoder": encoder, "per_channel": channels, "index": asdict(source.index), **settings}


def _save_routed(source: RoutedSearch, bundle: Path, name: str) -> Spec:
    made = {part: save_source(one, bundle, f"{name}/{part}") for part, one in source.parts.items()}
    router = None if source.router is None else save_router(source.router, bundle, name)
    told = {"route": source.route, "router": router, "other": source.other, "min_probability": source.min_probability}
    return {"kind": "routed", "parts": _of_kinds(source, made), **told}


def _of_kinds(source: PartedSearch, made: Mapping[str, Spec]) -> list[Spec]:
    return [{"name": part, "of": source.of[part], "source": told} for part, told in made.items()]


def _live(spec: Mapping[str, Any], bundle: Path, device: str) -> LiveSearch:
    told = {setting: spec[setting] for setting in _LIVE if setting in spec}
    encoder = load_encoder(spec["encoder"], bundle, device)
    return LiveSearch(encoder, dict(spec["per_channel"]), IndexConfig(**spec["index"]), **told)


def _lexical(spec: Mapping[str, Any], bundle: Path, device: str) -> LexicalSearch:
    words, bm25 = WordSettings(**spec["words"]), Bm25Settings(**spec["bm25"])
    return LexicalSearch(spec["top"], words, bm25, spec["distinct_texts"], spec["corpus"])


def _graph(spec: Mapping[str, Any], bundle: Path, device: str) -> GraphSearch:
    if spec["blocks"] == "whole":
        return GraphSearch(spec["top"], blocks="whole", corpus=spec["corpus"])
    reranker = load_reranker(spec["reranker"], bundle, device)
    return GraphSearch(spec["top"], spec["relations"], list(spec["priority"]), reranker, corpus=spec["corpus"])


def _fused(spec: Mapping[str, Any], bundle: Path, device: str) -> FusedSearch:
    pool = _live(spec["pool"], bundle, device)
    return FusedSearch(pool, load_fusion(spec["fusion"], bundle), spec["top"], spec["candidates"])


def _hybrid(spec: Mapping[str, Any], bundle: Path, device: str) -> HybridSearch:
    parts = {part["name"]: load_source(part["source"], bundle, device) for part in spec["parts"]}
    return HybridSearch(parts, spec["top"], spec["k"], {part["name"]: part["weight"] for part in spec["parts"]})


def _reranked(spec: Mapping[str, Any], bundle: Path, device: str) -> RerankedSearch:
    pool, reranker = load_source(spec["pool"], bundle, device), load_reranker(spec["reranker"], bundle, device)
    return RerankedSearch(pool, reranker, spec["keep"], spec["candidates"], spec["corpus"])


def _selected(spec: Mapping[str, Any], bundle: Path, device: str) -> SelectedSearch:
    return SelectedSearch(load_source(spec["pool"], bundle, device), Selection(**spec["rule"]))


def _parts(spec: Mapping[str, Any], bundle: Path, device: str) -> tuple[dict[str, CandidateSource], dict[str, list[str]]]:
    made = {part["name"]: load_source(part["source"], bundle, device) for part in spec["parts"]}
    return made, {part["name"]: list(part["of"]) for part in spec["parts"]}


def _corpora(spec: Mapping[str, Any], bundle: Path, device: str) -> CorpusSearch:
    return CorpusSearch(*_parts(spec, bundle, device))


def _routed(spec: Mapping[str, Any], bundle: Path, device: str) -> RoutedSearch:
    parts, of = _parts(spec, bundle, device)
    router = None if spec["router"] is None else load_router(spec["router"], bundle, device)
    return RoutedSearch(parts, spec["route"], router, spec["other"], of, spec["min_probability"])


def _knowledge(spec: Mapping[str, Any], bundle: Path, device: str) -> KnowledgeSearch:
    return KnowledgeSearch(*(load_source(spec[part], bundle, device) for part in (Knowledge.REPORTS, Knowledge.DOCUMENTS)))


_LOADERS: dict[str, Callable[[Mapping[str, Any], Path, str], CandidateSource]] = {
    "none": lambda spec, bundle, device: NoEvidence(),
    "live": _live,
    "lexical": _lexical,
    "graph": _graph,
    "fused": _fused,
    "hybrid": _hybrid,
    "reranked": _reranked,
    "selected": _selected,
    "routed": _routed,
    "corpora": _corpora,
    "knowledge": _knowledge,
}
