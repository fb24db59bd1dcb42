"""A search for each kind of knowledge: reports (documents with an image), and texts without one (HeteroRAG, MedAtlas)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import CandidateSource, OpenImage, Refreshable, Retriever, SimilaritySource, VectorSource
from medrag_lightning.records import Channel, Document, Knowledge, Query, Retrieved, knowledge_of
from medrag_lightning.retrieval.fused import FusedSearch
from medrag_lightning.retrieval.store import Side


class KnowledgeSearch:
    """Candidates of a query: what `reports` finds among the documents with an image, then what `documents` finds among texts.

    Each part knows only its own documents, in a folder of its own (``reports``, ``documents``) inside the store's folder, with
    its own store, encoder, channels and fingerprint: thousands of texts never crowd out reports, nor the other way round. The
    leak rule is that of the parts. Both make their stores in this process: vectors of the stage `embed` are of the whole corpus
    and are not used.

    Args:
        reports: searches the documents with an image: `source.LiveSearch` with ``image_to_image``, say.
        documents: searches the texts without an image: ``text_to_text`` with the question, or with an encoder of one space
            ``image_to_text``.
    """

    def __init__(self, reports: CandidateSource, documents: CandidateSource) -> None:
        self.parts = {Knowledge.REPORTS: reports, Knowledge.DOCUMENTS: documents}
        self._kind_of: dict[str, Knowledge] = {}

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Prepares both parts; ValueError where the corpus has nothing for one of them."""
        for kind, mine in _by_kind(documents).items():
            self.parts[kind].prepare(mine, open_image, folder / kind)

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Loads both parts."""
        for kind, mine in _by_kind(documents).items():
            self.parts[kind].load(mine, open_image, folder / kind)
        self._kind_of = {document.id: knowledge_of(document) for document in documents}

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        """The candidates of both parts, reports first, each part's best first."""
        provenance = self.fingerprint()
        found = [part.retrieve(queries) for part in self.parts.values()]
        return [
            Retrieved(query.id, tuple(candidate for one in both for candidate in one.candidates), provenance)
            for query, both in zip(queries, zip(*found, strict=True), strict=True)
        ]

    def similarities(
        self, queries: Sequence[Query], ids: Sequence[Sequence[str]], channels: Sequence[Channel]
    ) -> list[NDArray[np.float32]]:
        """(K, M) for each query, each document asked of its own part; NaN where a part tells no similarities."""
        told = [np.full((len(names), len(channels)), np.nan, np.float32) for names in ids]
        for kind, part in self.parts.items():
            places, mine = self._of_kind(ids, kind)
            if isinstance(part, SimilaritySource) and any(mine):
                for row, found_KM in enumerate(part.similarities(queries, mine, channels)):
                    told[row][places[row]] = found_KM
        return told

    def fused_scores(self, queries: Sequence[Query], ids: Sequence[Sequence[str]]) -> list[list[float]]:
        """f of documents, each beside the pool of its own part (`fused.FusedSearch`); NaN where a part fuses nothing."""
        told = [[float("nan")] * len(names) for names in ids]
        for kind, part in self.parts.items():
            places, mine = self._of_kind(ids, kind)
            if isinstance(part, FusedSearch) and any(mine):
                for row, found in enumerate(part.fused_scores(queries, mine)):
                    for place, score in zip(places[row], found, strict=True):
                        told[row][place] = score
        return told

    def document_vectors(self, side: Side, ids: Sequence[str]) -> NDArray[np.float32]:
        """(len(ids), D) vectors of documents on a side, each from its own part.

        Raises:
            ValueError: a part knows no vectors, a document has none on that side, or the parts' vectors differ in width.
        """
        if lacking := [name for name in ids if name not in self._kind_of]:
            raise ValueError(f"document {lacking[0]!r} is not in the corpus that was loaded")
        found: dict[str, NDArray[np.float32]] = {}
        for kind, part in self.parts.items():
            if mine := [name for name in ids if self._kind_of[name] is kind]:
                if not isinstance(part, VectorSource):
                    raise ValueError(f"the {kind} of KnowledgeSearch: {type(part).__name__} knows no vectors; use LiveSearch")
                found.update(zip(mine, part.document_vectors(side, mine), strict=True))
        if len({len(vector) for vector in found.values()}) > 1:
            raise ValueError(f"reports and documents have {side} vectors of different widths: their encoders differ")
        return np.stack([found[name] for name in ids]) if ids else np.zeros((0, 0), np.float32)

    def refresh(self, encoder: Retriever) -> None:
        """Refreshes both parts; ValueError where one cannot be."""
        for kind, part in self.parts.items():
            if not isinstance(part, Refreshable):
                told = f"{type(part).__name__} cannot have its vectors made anew; use LiveSearch"
                raise ValueError(f"the {kind} of KnowledgeSearch: {told}")
        for part in self.parts.values():
            assert isinstance(part, Refreshable)
            part.refresh(encoder)

    def fingerprint(self) -> str:
        """Those of both parts."""
        return fingerprint("knowledge", [[str(kind), part.fingerprint()] for kind, part in self.parts.items()])

    def _of_kind(self, ids: Sequence[Sequence[str]], kind: Knowledge) -> tuple[list[list[int]], list[list[str]]]:
        """The places of each query's documents that are of a kind, and their ids."""
        places = [[at for at, name in enumerate(names) if self._kind_of.get(name) is kind] for names in ids]
        return places, [[names[at] for at in row] for names, row in zip(ids, places, strict=True)]


def _by_kind(documents: Sequence[Document]) -> dict[Knowledge, list[Document]]:
    """The corpus of each part; ValueError where there is nothing to search."""
    found: dict[Knowledge, list[Document]] = {Knowledge.REPORTS: [], Knowledge.DOCUMENTS: []}
    for document in documents:
        found[knowledge_of(document)].append(document)
    if not found[Knowledge.DOCUMENTS]:
        raise ValueError(
            "KnowledgeSearch has no documents to search: every item of data.corpus has an image; add a text corpus to it "
            "(tables.TextCorpus, or MiniHospital with texts: true), or use LiveSearch"
        )
    if not found[Knowledge.REPORTS]:
        raise ValueError(
            "KnowledgeSearch has no reports to search: no item of data.corpus has an image; add image-report pairs to it, or "
            "use LiveSearch with text_to_text"
        )
    return found
