"""The source of evidence in a bundle: what finds candidates, as an entry in ``system.json`` and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from medrag_lightning.handoff.bundle.encoders import Spec, check_encoder, load_encoder, plain_state, save_encoder
from medrag_lightning.handoff.bundle.layout import RETRIEVER
from medrag_lightning.interfaces import CandidateSource, SimilarityFusion
from medrag_lightning.models.similarity_fusion import FixedFusion, TrainedFusion, WeightedSimilarities
from medrag_lightning.records import Knowledge
from medrag_lightning.retrieval.candidates import CachedTable, Remembered
from medrag_lightning.retrieval.corpus_search import CorpusSearch
from medrag_lightning.retrieval.fused import FusedSearch
from medrag_lightning.retrieval.index import IndexConfig
from medrag_lightning.retrieval.knowledge_search import KnowledgeSearch
from medrag_lightning.retrieval.selected import SelectedSearch
from medrag_lightning.retrieval.source import LiveSearch, NoEvidence
from medrag_lightning.selection import Selection

_LIVE = ("dtype", "batch_size", "distinct_documents", "distinct_texts", "corpus")


def save_source(source: Any, bundle: Path, name: str = "encoder") -> Spec:
    """Writes encoders and fusion weights of a checked source below ``retriever/``; gives the entry in ``system.json``."""
    if isinstance(source, Remembered):
        return save_source(source.source, bundle, name)
    if isinstance(source, NoEvidence):
        return {"kind": "none"}
    if isinstance(source, LiveSearch):
        told = {setting: getattr(source, setting) for setting in _LIVE}
        channels = {str(channel): count for channel, count in source.per_channel.items()}
        encoder = save_encoder(source.encoder, bundle, name)
        return {"kind": "live", "encoder": encoder, "per_channel": channels, "index": asdict(source.index), **told}
    if isinstance(source, FusedSearch):
        pool, fusion = save_source(source.pool, bundle, name), _save_fusion(source.fusion, bundle, name)
        return {"kind": "fused", "pool": pool, "fusion": fusion, "top": source.top, "candidates": source.candidates}
    if isinstance(source, SelectedSearch):
        return {"kind": "selected", "pool": save_source(source.pool, bundle, name), "rule": asdict(source.rule)}
    assert isinstance(source, CorpusSearch), "checked before"
    parts = {part: save_source(one, bundle, str(part)) for part, one in source.parts.items()}
    if isinstance(source, KnowledgeSearch):
        return {"kind": "knowledge"} | parts
    return {"kind": "corpora", "parts": [{"name": part, "of": source.of[part], "source": told} for part, told in parts.items()]}


def check_source(source: Any) -> None:
    """ValueError for a source that cannot answer new questions, or that bundles do not know; before anything is written."""
    if isinstance(source, Remembered):
        check_source(source.source)
    elif isinstance(source, CorpusSearch):
        for part in source.parts.values():
            check_source(part)
            if isinstance(part, (CorpusSearch, NoEvidence)):
                raise ValueError(f"data.source: a bundle cannot hold a {type(part).__name__} as a part of another search")
    elif isinstance(source, SelectedSearch):
        if not isinstance(source.pool, (LiveSearch, FusedSearch)):
            told = f"the pool of SelectedSearch is a {type(source.pool).__name__}"
            raise ValueError(f"data.source: {told}; a bundle holds one of LiveSearch or FusedSearch: select within each part")
        check_source(source.pool)
    elif isinstance(source, LiveSearch):
        check_encoder(source.encoder)
        if source._fresh:
            raise ValueError("the source's vectors were made anew in memory; build the evidence store with that encoder first")
    elif isinstance(source, FusedSearch):
        check_source(source.pool)
    elif not isinstance(source, NoEvidence):
        why = "answers only the questions in its table" if isinstance(source, CachedTable) else "is not known to bundles"
        raise ValueError(
            f"data.source is a {type(source).__name__}, which {why}; export with LiveSearch, FusedSearch, SelectedSearch, "
            "KnowledgeSearch, CorpusSearch or NoEvidence: set data.source in the run's config.yaml to the search that made "
            "the table"
        )


def load_source(spec: Mapping[str, Any], bundle: Path, device: str) -> CandidateSource:
    """The source of an entry in ``system.json``; it knows no documents before `load`."""
    kind = spec["kind"]
    if kind == "live":
        told = {setting: spec[setting] for setting in _LIVE if setting in spec}
        encoder = load_encoder(spec["encoder"], bundle, device)
        return LiveSearch(encoder, dict(spec["per_channel"]), IndexConfig(**spec["index"]), **told)
    if kind == "fused":
        pool = load_source(spec["pool"], bundle, device)
        assert isinstance(pool, LiveSearch), "the schema says so"
        return FusedSearch(pool, _load_fusion(spec["fusion"], bundle), spec["top"], spec["candidates"])
    if kind == "selected":
        return SelectedSearch(load_source(spec["pool"], bundle, device), Selection(**spec["rule"]))
    if kind == "corpora":
        made = {part["name"]: load_source(part["source"], bundle, device) for part in spec["parts"]}
        return CorpusSearch(made, {part["name"]: list(part["of"]) for part in spec["parts"]})
    if kind == "knowledge":
        parts = (Knowledge.REPORTS, Knowledge.DOCUMENTS)
        return KnowledgeSearch(*(load_source(spec[part], bundle, device) for part in parts))
    assert kind == "none", "the schema says so"
    return NoEvidence()


def searches(source: Any, place: str = "") -> list[tuple[str, LiveSearch]]:
    """Every search over a store of its own, and where that store lies below the folder of the evidence."""
    if isinstance(source, Remembered):
        return searches(source.source, place)
    if isinstance(source, (FusedSearch, SelectedSearch)):
        return searches(source.pool, place)
    if isinstance(source, CorpusSearch):
        return [one for name, part in source.parts.items() for one in searches(part, f"{place}{name}/")]
    return [(place.rstrip("/"), source)] if isinstance(source, LiveSearch) else []


def _save_fusion(fusion: SimilarityFusion, bundle: Path, name: str) -> Spec:
    if isinstance(fusion, FixedFusion):
        weights = dict(zip(map(str, fusion.channels), fusion.weight_M.tolist(), strict=True))
        return {"kind": "fixed", "weights": weights, "standardise": fusion.standardise}
    made = fusion._loaded() if isinstance(fusion, TrainedFusion) else fusion
    if not isinstance(made, WeightedSimilarities):
        raise ValueError(
            f"a bundle cannot hold a fusion of class {type(fusion).__name__}; it knows TrainedFusion and FixedFusion"
        )
    file = f"{RETRIEVER}/{name}_fusion.safetensors"
    save_file(plain_state(made), bundle / file)
    return {"kind": "weighted", "settings": made.settings(), "modalities": list(made.modalities), "file": file}


def _load_fusion(spec: Mapping[str, Any], bundle: Path) -> SimilarityFusion:
    if spec["kind"] == "fixed":
        return FixedFusion(dict(spec["weights"]), spec["standardise"])
    made = WeightedSimilarities(**spec["settings"])
    made.prepare(spec["modalities"])
    made.load_state_dict(load_file(bundle / spec["file"]))
    return made.requires_grad_(False).eval()
