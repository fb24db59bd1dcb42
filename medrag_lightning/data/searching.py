"""Candidates of queries, held to the leak rule; sources that would find the same search once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medrag_lightning.interfaces import CandidateSource, OpenImage
from medrag_lightning.records import Document, Query, Retrieved, shares_identity


class Searching:
    """Asks sources for the candidates of queries.

    Args:
        documents: the corpus.
        open_image: opens an image.
        folder: where the sources' stores lie.
    """

    def __init__(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        self.documents, self.open_image, self.folder = documents, open_image, folder
        self._known: dict[str, dict[str, Retrieved]] = {}

    def find(self, source: CandidateSource, queries: Sequence[Query]) -> dict[str, Retrieved]:
        """The candidates of each query by its id; a source of a known fingerprint is not asked twice for a query.

        Raises:
            ValueError: a candidate shares id, study, patient or image with its query, or stands in another query's place.
        """
        source.load(self.documents, self.open_image, self.folder)
        known = self._known.setdefault(source.fingerprint(), {})
        wanted = [query for query in queries if query.id not in known]
        for query, found in zip(wanted, source.retrieve(wanted) if wanted else [], strict=True):
            check_found(query, found)
            known[query.id] = found
        return {query.id: known[query.id] for query in queries}


def check_found(query: Query, found: Retrieved) -> None:
    """ValueError if a candidate shares id, study, patient or image with its query, or stands in another query's place."""
    if found.query_id != query.id:
        raise ValueError(f"{found.provenance}: candidates of query {found.query_id!r} in the place of {query.id!r}")
    for candidate in found.candidates:
        if reason := shares_identity(query, candidate.document):
            raise ValueError(f"{found.provenance}: candidate {candidate.id!r} shares its {reason} with query {query.id!r}")
