"""The toy's coloured squares with texts beside its reports, and a source that finds both and tells how alike squares are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from toy import COLOURS, ToySource, ToyTable

from medrag_lightning.data.module import MedragData
from medrag_lightning.interfaces import OpenImage
from medrag_lightning.records import Candidate, Channel, Document, Query, Retrieved

NAMES = list(COLOURS)


class ToyTexts(ToyTable):
    """Eight texts, two about each colour."""

    def documents(self) -> list[Document]:
        return [*super().documents(), *(Document(f"t{n}", f"a book on {NAMES[n % 4]}", source="book") for n in range(8))]


class ToyKnowledge(ToySource):
    """Reports as `ToySource` finds them, among those with an image, and two texts: one of the colour, one of another."""

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        self.documents = [document for document in documents if document.image is not None]
        self.texts = [document for document in documents if document.image is None]
        self.mean = {d.image: np.asarray(open_image(d.image), np.float32).mean((0, 1)) for d in self.documents}
        self.by_id = {document.id: document for document in self.documents}

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        found = super().retrieve(queries)
        return [Retrieved(r.query_id, (*r.candidates, *self._of_texts(int(r.query_id[1:]))), "toy") for r in found]

    def similarities(
        self, queries: Sequence[Query], ids: Sequence[Sequence[str]], channels: Sequence[Channel]
    ) -> list[NDArray[np.float32]]:
        rows = []
        for query, names in zip(queries, ids, strict=True):
            mine, others = self.mean[query.image], np.stack([self.mean[self.by_id[name].image] for name in names])
            rows.append((others @ mine / np.linalg.norm(others, axis=1) / np.linalg.norm(mine))[:, None])
        return rows

    def _of_texts(self, n: int) -> list[Candidate]:
        return [Candidate(self.texts[place % 8], 0.5, Channel.TEXT_TO_TEXT) for place in (n, n + 1)]


def knowledge_data(folder, **settings) -> MedragData:
    """The data module of this world."""
    table = ToyTexts(str(folder))
    return MedragData([table], [table], ToyKnowledge(), cache_folder=str(folder / "evidence"), **settings)
