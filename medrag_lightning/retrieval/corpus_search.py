"""A search for each corpus: candidates of several kinds of evidence, each found in its own way (HeteroRAG, MedAtlas)."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import CandidateSource, OpenImage, Refreshable, Retriever, SimilaritySource, VectorSource
from medrag_lightning.records import Channel, Document, Query, Retrieved
from medrag_lightning.retrieval.store import Side

logger = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class CorpusSearch:
    """Candidates of a query: what the first part finds in its corpus, then the second's, and so on, each part's best first.

    Each part knows only its own documents, in a folder of its own (its name) inside the store's folder, with its own store,
    encoder and fingerprint: millions of abstracts never crowd out reports. The leak rule is that of the parts. All make their
    stores in this process: vectors of the stage `embed` are of the whole corpus and are not used.

    A part whose setting `corpus` is its name asks what a query generator wrote for it (`Query.searches`), and is not searched
    where it wrote nothing; a part without that setting always asks with the question and its image.

    Args:
        parts: what searches each corpus, in the order of the candidates. A name is ``reports`` for all documents with an image,
            else a source of documents (the `name` of a text corpus). A corpus of data.corpus that no part searches gives no
            evidence: so is one left out on purpose.
        of: where a part searches other corpora than that of its name: the part's name to theirs.
    """

    def __init__(self, parts: dict[str, CandidateSource], of: dict[str, list[str]] | None = None) -> None:
        if not parts:
            raise ValueError("CorpusSearch has no parts: name what searches each corpus, or use NoEvidence")
        if wrong := [name for name in parts if not _NAME.fullmatch(name)]:
            raise ValueError(
                f"CorpusSearch: {wrong[0]!r} cannot name a folder; use letters, digits, '_', '-' and '.'; see `of`"
            )
        if unknown := sorted(set(of or {}) - set(parts)):
            raise ValueError(f"CorpusSearch: of.{unknown[0]} would be ignored: there is no part of that name")
        self.parts, self.of = parts, {name: (of or {}).get(name, [name]) for name in parts}
        searched = Counter(corpus for corpora in self.of.values() for corpus in corpora)
        if twice := [corpus for corpus, count in searched.items() if count > 1]:
            raise ValueError(
                f"CorpusSearch: corpus {twice[0]!r} is searched by several parts; use HybridSearch inside one part"
            )
        for name, part in parts.items():
            if (told := getattr(part, "corpus", "")) not in ("", name):
                raise ValueError(f"CorpusSearch: part {name!r} has corpus: {told}; call it {name}, or leave it out")
        self._part_of: dict[str, str] = {}

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Prepares every part; ValueError where the corpus has nothing for one of them."""
        for name, mine in self.by_part(documents).items():
            self.parts[name].prepare(mine, open_image, folder / name)

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Loads every part."""
        by_part = self.by_part(documents)
        for name, mine in by_part.items():
            self.parts[name].load(mine, open_image, folder / name)
        self._part_of = {document.id: name for name, mine in by_part.items() for document in mine}

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        """The candidates of all parts, in the order of the parts."""
        provenance = self.fingerprint()
        found = [part.retrieve(queries) for part in self.parts.values()]
        return [
            Retrieved(query.id, tuple(candidate for one in mine for candidate in one.candidates), provenance)
            for query, mine in zip(queries, zip(*found, strict=True), strict=True)
        ]

    def similarities(
        self, queries: Sequence[Query], ids: Sequence[Sequence[str]], channels: Sequence[Channel]
    ) -> list[NDArray[np.float32]]:
        """(K, M) for each query, each document asked of its own part; NaN where a part tells no similarities."""
        told = [np.full((len(names), len(channels)), np.nan, np.float32) for names in ids]
        for name, part in self.parts.items():
            places, mine = self._of_part(ids, name)
            if isinstance(part, SimilaritySource) and any(mine):
                for row, found_KM in enumerate(part.similarities(queries, mine, channels)):
                    told[row][places[row]] = found_KM
        return told

    def fused_scores(self, queries: Sequence[Query], ids: Sequence[Sequence[str]]) -> list[list[float]]:
        """f of documents, each beside the pool of its own part (`fused.FusedSearch`); NaN where a part fuses nothing."""
        told = [[float("nan")] * len(names) for names in ids]
        for name, part in self.parts.items():
            places, mine = self._of_part(ids, name)
            if hasattr(part, "fused_scores") and any(mine):
                for row, found in enumerate(part.fused_scores(queries, mine)):
                    for place, score in zip(places[row], found, strict=True):
                        told[row][place] = score
        return told

    def document_vectors(self, side: Side, ids: Sequence[str]) -> NDArray[np.float32]:
        """(len(ids), D) vectors of documents on a side, each from its own part.

        Raises:
            ValueError: a part knows no vectors, a document has none on that side, or the parts' vectors differ in width.
        """
        if lacking := [name for name in ids if name not in self._part_of]:
            raise ValueError(f"document {lacking[0]!r} is not in the corpus that was loaded")
        found: dict[str, NDArray[np.float32]] = {}
        for name, part in self.parts.items():
            if mine := [one for one in ids if self._part_of[one] == name]:
                if not isinstance(part, VectorSource):
                    raise ValueError(f"{self._called(name, part)} knows no vectors; use LiveSearch")
                found.update(zip(mine, part.document_vectors(side, mine), strict=True))
        if len({len(vector) for vector in found.values()}) > 1:
            told = " and ".join(self.parts)
            raise ValueError(f"{told} have {side} vectors of different widths: their encoders differ")
        return np.stack([found[name] for name in ids]) if ids else np.zeros((0, 0), np.float32)

    def refresh(self, encoder: Retriever) -> None:
        """Refreshes every part; ValueError where one cannot be."""
        for name, part in self.parts.items():
            if not isinstance(part, Refreshable):
                raise ValueError(f"{self._called(name, part)} cannot have its vectors made anew; use LiveSearch")
        for part in self.parts.values():
            assert isinstance(part, Refreshable)
            part.refresh(encoder)

    def fingerprint(self) -> str:
        """Those of the parts, and what they search."""
        return fingerprint("corpora", [[name, sorted(self.of[name]), part.fingerprint()] for name, part in self.parts.items()])

    def by_part(self, documents: Sequence[Document]) -> Mapping[str, list[Document]]:
        """The documents of each part; ValueError where there is nothing to search."""
        part_of = {corpus: name for name, corpora in self.of.items() for corpus in corpora}
        found: dict[str, list[Document]] = {name: [] for name in self.parts}
        rest: Counter[str] = Counter()
        for document in documents:
            if document.corpus in part_of:
                found[part_of[document.corpus]].append(document)
            else:
                rest[document.corpus] += 1
        there = sorted({document.corpus for document in documents})
        for corpus in part_of:
            if corpus not in there:
                told = ", ".join(map(repr, there)) or "none"
                raise ValueError(
                    f"CorpusSearch: data.corpus holds no document of corpus {corpus!r}, which part {part_of[corpus]!r} is to "
                    f"search; it holds {told}. Add a table with that name, name another corpus in `of`, or leave the part out"
                )
        if rest:
            told = ", ".join(f"{corpus or 'without a source'} ({count})" for corpus, count in sorted(rest.items()))
            logger.warning("corpora that no part of CorpusSearch searches give no evidence: %s", told)
        return found

    def _of_part(self, ids: Sequence[Sequence[str]], part: str) -> tuple[list[list[int]], list[list[str]]]:
        """The places of each query's documents that a part searches, and their ids."""
        places = [[at for at, name in enumerate(names) if self._part_of.get(name) == part] for names in ids]
        return places, [[names[at] for at in row] for names, row in zip(ids, places, strict=True)]

    def _called(self, name: str, part: CandidateSource) -> str:
        return f"the {name} of {type(self).__name__}: {type(part).__name__}"
