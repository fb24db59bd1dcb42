"""A search for each corpus: candidates of several kinds of evidence, each found in its own way (HeteroRAG, MedAtlas)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import CandidateSource
from medrag_lightning.records import Document, Query, Retrieved
from medrag_lightning.retrieval.parted import PartedSearch


class CorpusSearch(PartedSearch):
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

    kinds: ClassVar[tuple[str, str, str]] = ("corpus", "corpora", "source")

    def __init__(self, parts: dict[str, CandidateSource], of: dict[str, list[str]] | None = None) -> None:
        super().__init__(parts, of)
        for name, part in parts.items():
            if (told := getattr(part, "corpus", "")) not in ("", name):
                raise ValueError(f"CorpusSearch: part {name!r} has corpus: {told}; call it {name}, or leave it out")

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        """The candidates of all parts, in the order of the parts."""
        provenance = self.fingerprint()
        found = [part.retrieve(queries) for part in self.parts.values()]
        return [
            Retrieved(query.id, tuple(candidate for one in mine for candidate in one.candidates), provenance)
            for query, mine in zip(queries, zip(*found, strict=True), strict=True)
        ]

    def fingerprint(self) -> str:
        """Those of the parts, and what they search."""
        return fingerprint("corpora", [[name, sorted(self.of[name]), part.fingerprint()] for name, part in self.parts.items()])

    @classmethod
    def belongs_to(cls, document: Document) -> str:
        """Its corpus."""
        return document.corpus
