"""Re-rankers of a bundle: word statistics as JSON, a cross-encoder as a folder of safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medrag_lightning.handoff.bundle.encoders import Spec, save_text_model
from medrag_lightning.handoff.bundle.layout import RETRIEVER
from medrag_lightning.interfaces import Reranker
from medrag_lightning.models.cross_encoder import CrossEncoder
from medrag_lightning.retrieval.relation_ranking import WordOverlap
from medrag_lightning.retrieval.word_reranker import WordReranker


def check_reranker(reranker: Any) -> None:
    """ValueError for a kind of re-ranker that bundles do not know."""
    if not isinstance(reranker, WordReranker | WordOverlap | CrossEncoder):
        raise ValueError(
            f"a bundle cannot hold a re-ranker of class {type(reranker).__name__}; it knows WordReranker, WordOverlap and "
            "CrossEncoder"
        )


def save_reranker(reranker: Any, bundle: Path, name: str) -> Spec:
    """Writes a checked re-ranker below ``retriever/``; gives its entry in ``system.json``."""
    if isinstance(reranker, WordOverlap):
        return {"kind": "overlap"}
    place = f"{RETRIEVER}/{name}_reranker"
    (bundle / place).parent.mkdir(parents=True, exist_ok=True)
    if isinstance(reranker, WordReranker):
        reranker.save(bundle / f"{place}.json")
        return {"kind": "words", "file": f"{place}.json"}
    assert isinstance(reranker, CrossEncoder), "checked before"
    save_text_model(*reranker._model(), bundle / place)
    told = {"max_tokens": reranker.max_tokens, "batch_size": reranker.batch_size, "dtype": reranker.dtype}
    return {"kind": "cross_encoder", "folder": place, **told}


def load_reranker(spec: Mapping[str, Any], bundle: Path, device: str) -> Reranker:
    """The re-ranker of an entry in ``system.json``; ValueError where what it needs is not installed."""
    if spec["kind"] == "overlap":
        return WordOverlap()
    if spec["kind"] == "words":
        return WordReranker(str(bundle / spec["file"]))
    told = {name: spec[name] for name in ("max_tokens", "batch_size", "dtype")}
    return CrossEncoder(str(bundle / spec["folder"]), device=device, **told)
