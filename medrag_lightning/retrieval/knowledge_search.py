"""A search for each kind of knowledge: reports (documents with an image), and texts without one (HeteroRAG, MedAtlas)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import CandidateSource
from medrag_lightning.records import Document, Knowledge, knowledge_of
from medrag_lightning.retrieval.corpus_search import CorpusSearch


class KnowledgeSearch(CorpusSearch):
    """Candidates of a query: what `reports` finds among the documents with an image, then what `documents` finds among texts.

    A `CorpusSearch` of two parts, in which all texts are one corpus. Each part knows only its own documents, in a folder of its
    own (``reports``, ``documents``) inside the store's folder.

    Args:
        reports: searches the documents with an image: `source.LiveSearch` with ``image_to_image``, say.
        documents: searches the texts without an image: ``text_to_text`` with the question, or with an encoder of one space
            ``image_to_text``.
    """

    def __init__(self, reports: CandidateSource, documents: CandidateSource) -> None:
        super().__init__({Knowledge.REPORTS: reports, Knowledge.DOCUMENTS: documents})

    def by_part(self, documents: Sequence[Document]) -> Mapping[str, list[Document]]:
        """The documents of each part; ValueError where there is nothing to search."""
        found: dict[str, list[Document]] = {Knowledge.REPORTS: [], Knowledge.DOCUMENTS: []}
        for document in documents:
            found[knowledge_of(document)].append(document)
        if not found[Knowledge.DOCUMENTS]:
            raise ValueError(
                "KnowledgeSearch has no documents to search: every item of data.corpus has an image; add a text corpus to it "
                "(tables.TextCorpus, or MiniHospital with texts: true), or use LiveSearch"
            )
        if not found[Knowledge.REPORTS]:
            raise ValueError(
                "KnowledgeSearch has no reports to search: no item of data.corpus has an image; add image-report pairs to it, "
                "or use LiveSearch with text_to_text"
            )
        return found

    def fingerprint(self) -> str:
        """Those of both parts."""
        return fingerprint("knowledge", [[name, part.fingerprint()] for name, part in self.parts.items()])
