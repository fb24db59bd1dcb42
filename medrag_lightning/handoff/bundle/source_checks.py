"""Which sources of evidence a bundle can hold; asked before anything is written."""

from __future__ import annotations

from typing import Any

from medrag_lightning.handoff.bundle.encoders import check_encoder
from medrag_lightning.handoff.bundle.rerankers import check_reranker
from medrag_lightning.handoff.bundle.routers import check_router
from medrag_lightning.retrieval.candidates import CachedTable, Remembered
from medrag_lightning.retrieval.corpus_search import CorpusSearch
from medrag_lightning.retrieval.fused import FusedSearch
from medrag_lightning.retrieval.graph import GraphSearch
from medrag_lightning.retrieval.hybrid import HybridSearch
from medrag_lightning.retrieval.lexical import LexicalSearch
from medrag_lightning.retrieval.milvus import MilvusSearch
from medrag_lightning.retrieval.reranked import RerankedSearch
from medrag_lightning.retrieval.routed import RoutedSearch
from medrag_lightning.retrieval.selected import SelectedSearch
from medrag_lightning.retrieval.source import LiveSearch, NoEvidence
from medrag_lightning.retrieval.web import WebSearch

KNOWN = "LiveSearch, FusedSearch, LexicalSearch, GraphSearch, HybridSearch, RerankedSearch, SelectedSearch, RoutedSearch"


def check_source(source: Any) -> None:
    """ValueError for a source that cannot answer new questions, or that bundles do not know, with the remedy."""
    if isinstance(source, Remembered):
        check_source(source.source)
    elif isinstance(source, CorpusSearch):
        for name, part in source.parts.items():
            _check_search(part, f"the part {name!r} of {type(source).__name__}")
    elif not isinstance(source, NoEvidence):
        _check_search(source, "data.source")


def _check_search(search: Any, called: str) -> None:
    """ValueError unless it is a search of one corpus that bundles know."""
    if isinstance(search, Remembered):
        _check_search(search.source, called)
    elif isinstance(search, CorpusSearch | NoEvidence):
        raise ValueError(f"{called} is a {type(search).__name__}; a bundle cannot hold it as a part of another search")
    elif isinstance(search, HybridSearch | RoutedSearch):
        for name, part in search.parts.items():
            _check_search(part, f"the part {name!r} of {type(search).__name__}")
        if isinstance(search, RoutedSearch) and search.router is not None:
            check_router(search.router)
    elif isinstance(search, RerankedSearch | SelectedSearch | FusedSearch):
        _check_search(search.pool, f"the pool of {type(search).__name__}")
        if isinstance(search, RerankedSearch):
            check_reranker(search.reranker)
    elif isinstance(search, GraphSearch):
        check_reranker(search.reranker)
    elif isinstance(search, LiveSearch):
        check_encoder(search.encoder)
        if search._fresh:
            raise ValueError("the source's vectors were made anew in memory; build the evidence store with that encoder first")
    elif not isinstance(search, LexicalSearch):
        raise ValueError(_refusal(search, called))


def _refusal(search: Any, called: str) -> str:
    told = f"{called} is a {type(search).__name__}, which "
    if isinstance(search, MilvusSearch):
        return (
            f"{told}finds its vectors in Milvus: the bundle would answer only where that file or server is, and could not "
            "prove that its vectors stay the same. Set it to LiveSearch with the same encoder and per_channel in the run's "
            "config.yaml: its store holds the same vectors, and finds the same candidates"
        )
    if isinstance(search, WebSearch):
        return (
            f"{told}asks the web, or a recording of it: a bundle opens no connection, and a recording knows only the "
            "questions that were recorded. Leave that part out of the run's config.yaml: the others find what they found before"
        )
    why = "answers only the questions in its table" if isinstance(search, CachedTable) else "is not known to bundles"
    return (
        f"{told}{why}; export with {KNOWN}, KnowledgeSearch or CorpusSearch of these, or NoEvidence: set data.source in the "
        "run's config.yaml to the search that made the table"
    )
