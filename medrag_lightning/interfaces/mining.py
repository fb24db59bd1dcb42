"""What mines positives: extractors of the facts that a report states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from medrag_lightning.records import Document


@runtime_checkable
class FactExtractor(Protocol):
    """Tells what each report states, so that reports that state the same can be found (FactMM-RAG)."""

    def facts(self, documents: Sequence[Document]) -> list[frozenset[str]]:
        """The facts of each document, in order; a denied one (``no effusion``) is another fact. Empty if nothing is known."""
        ...

    def fingerprint(self) -> str:
        """sha256 over everything that the facts depend on, the documents aside."""
        ...
