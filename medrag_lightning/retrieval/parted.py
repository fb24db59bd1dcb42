"""What searches that give each part of the corpus to a search of its own have in common."""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.interfaces import (
    BringsDocuments,
    CandidateSource,
    OpenImage,
    Refreshable,
    Retriever,
    SimilaritySource,
    VectorSource,
)
from medrag_lightning.records import Channel, Document, Query
from medrag_lightning.retrieval.store import Side

logger = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class PartedSearch(ABC):
    """Parts by name, each with its own documents in a folder of its own; who asks which part is told by who inherits.

    Args:
        parts: what searches each part of the corpus; a name is that of a folder, too.
        of: what belongs to a part, where it is not what the part's name says.
    """

    kinds: ClassVar[tuple[str, str, str]]
    """What tells the part of a document: in the singular, in the plural, and what a document lacks that has none."""

    def __init__(self, parts: dict[str, CandidateSource], of: dict[str, list[str]] | None = None) -> None:
        called = type(self).__name__
        if not parts:
            raise ValueError(f"{called} has no parts: name what searches each, or use NoEvidence")
        if wrong := [name for name in parts if not _NAME.fullmatch(name)]:
            raise ValueError(f"{called}: {wrong[0]!r} cannot name a folder; use letters, digits, '_', '-' and '.'; see `of`")
        if unknown := sorted(set(of or {}) - set(parts)):
            raise ValueError(f"{called}: of.{unknown[0]} would be ignored: there is no part of that name")
        self.parts, self.of = parts, {name: (of or {}).get(name, [name]) for name in parts}
        belonging = [kind for kinds in self.of.values() for kind in kinds]
        if twice := [kind for kind, count in Counter(map(self._plain, belonging)).items() if count > 1]:
            raise ValueError(
                f"{called}: {self.kinds[0]} {twice[0]!r} is searched by several parts; use HybridSearch inside one"
            )
        self._part_of_kind = {self._plain(kind): name for name, kinds in self.of.items() for kind in kinds}
        self._part_of: dict[str, str] = {}

    @classmethod
    @abstractmethod
    def belongs_to(cls, document: Document) -> str:
        """By what a document is given to a part; empty where it is not known."""

    def by_part(self, documents: Sequence[Document]) -> Mapping[str, list[Document]]:
        """The documents of each part; ValueError where there is nothing to search."""
        kind, plural, lacking = self.kinds
        found: dict[str, list[Document]] = {name: [] for name in self.parts}
        there: Counter[str] = Counter()
        for document in documents:
            belongs = self.belongs_to(document)
            there[belongs] += 1
            if name := self._part_of_kind.get(self._plain(belongs)):
                found[name].append(document)
        known = {self._plain(belongs) for belongs in there}
        for name, belonging in self.of.items():
            if isinstance(self.parts[name], BringsDocuments):
                continue
            if missing := [one for one in belonging if self._plain(one) not in known]:
                told = ", ".join(map(repr, sorted(there))) or "none"
                raise ValueError(
                    f"{type(self).__name__}: data.corpus holds no document of {kind} {missing[0]!r}, which part {name!r} is to "
                    f"search; it holds {told}. Add a table that has one, name another {kind} in `of`, or leave the part out"
                )
        if rest := sorted(belongs for belongs in there if self._plain(belongs) not in self._part_of_kind):
            told = ", ".join(f"{belongs or f'without a {lacking}'} ({there[belongs]})" for belongs in rest)
            logger.warning("%s that no part of %s searches give no evidence: %s", plural, type(self).__name__, told)
        return found

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

    @staticmethod
    def _plain(kind: str) -> str:
        """By what two names of one kind are the same."""
        return kind

    def _of_part(self, ids: Sequence[Sequence[str]], part: str) -> tuple[list[list[int]], list[list[str]]]:
        """The places of each query's documents that a part searches, and their ids."""
        places = [[at for at, name in enumerate(names) if self._part_of.get(name) == part] for names in ids]
        return places, [[names[at] for at in row] for names, row in zip(ids, places, strict=True)]

    def _called(self, name: str, part: CandidateSource) -> str:
        return f"the {name} of {type(self).__name__}: {type(part).__name__}"
