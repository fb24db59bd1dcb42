"""Texts that share words with the question: BM25 by the library bm25s."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.batches import pixel_sha256
from medrag_lightning.interfaces import OpenImage
from medrag_lightning.records import Candidate, Channel, Document, ImageRef, Query, Retrieved
from medrag_lightning.retrieval.building import Progress, Report
from medrag_lightning.retrieval.lexical_index import Bm25Settings, LexicalIndex, best_rows, build_index, copy_index
from medrag_lightning.retrieval.ranking import leak
from medrag_lightning.retrieval.store import corpus_fingerprint, rows_with
from medrag_lightning.retrieval.wording import wording
from medrag_lightning.retrieval.words import Words, WordSettings

SPARE = 8  # texts fetched beyond those wanted, for the leak rule
REMEMBERED = 4096  # images whose pixels' hash is kept


class LexicalSearch:
    """The texts with the highest BM25 score for the question (H08); no vectors, no model.

    A text without any word of the question is no candidate, so that a question may have fewer than `top`, or none. The leak
    rule is that of `source.LiveSearch`; a document's image is opened only where it is among the best of a query with an image.

    Args:
        top: candidates of a query.
        words: how texts become words; null for the defaults.
        bm25: the constants of BM25; null for the defaults.
        distinct_texts: whether each text is given once: the first document stands for all that say the same word for word.
        corpus: the name that `Query.searches` calls these documents by: a query with searches asks with the words for this
            corpus, or finds nothing here. Empty: with the question, whatever its searches say.
    """

    def __init__(
        self,
        top: int,
        words: WordSettings | None = None,
        bm25: Bm25Settings | None = None,
        distinct_texts: bool = False,
        corpus: str = "",
    ) -> None:
        if top < 1:
            raise ValueError(f"top must be at least 1, got {top}")
        self.top, self.words, self.bm25 = top, words or WordSettings(), bm25 or Bm25Settings()
        self.distinct_texts, self.corpus = distinct_texts, corpus
        self.on_progress: Progress | None = None
        self._words: Words | None = None
        self._index: LexicalIndex | None = None
        self._documents: Sequence[Document] = ()
        self._rows = rows_with((), "text")
        self._open_image: OpenImage | None = None
        self._pixels: dict[ImageRef, str] = {}

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Builds the index under `folder`, or checks what is there, byte by byte.

        Raises:
            ValueError: the index belongs to another corpus or other settings, is damaged, or the corpus has no texts.
        """
        rows = rows_with(documents, "text")
        if not len(rows):
            raise ValueError("LexicalSearch has nothing to find: the corpus has no texts; leave it out")
        if LexicalIndex.exists(folder):
            self._check(LexicalIndex.open(folder), documents).verify()
            return
        report = Report("texts read for the lexical index", len(rows), self.on_progress)
        texts = (documents[int(row)].text for row in rows)
        build_index(folder, texts, len(rows), self._split(), self.bm25, self._told(documents), report)

    def prepare_from(self, other: LexicalSearch, documents: Sequence[Document], folder: Path) -> None:
        """As `prepare`, from the index that `other` has loaded, of the same texts in the same order under other names."""
        theirs = [other._documents[int(row)].text for row in other._rows]
        if theirs != [documents[int(row)].text for row in rows_with(documents, "text")]:
            raise ValueError("a lexical index serves the same texts in the same order only")
        copy_index(other._opened(), folder, self._told(documents))

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Maps the index; refuses one of another corpus or other settings."""
        self._index = self._check(LexicalIndex.open(folder), documents)
        self._documents, self._open_image, self._pixels = documents, open_image, {}
        self._rows = rows_with(documents, "text")
        if len(self._rows) != len(self._index):
            raise ValueError(f"{folder} indexes {len(self._index)} texts, the corpus has {len(self._rows)}; delete that folder")

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        """The best texts of each query."""
        provenance = self.fingerprint()
        return [Retrieved(query.id, tuple(self._best(query)), provenance) for query in queries]

    def fingerprint(self) -> str:
        """Corpus, words, constants, and what is given of them; RuntimeError before `load`."""
        return fingerprint("lexical search", self._opened().fingerprint, [self.top, self.distinct_texts, self.corpus])

    def _best(self, query: Query) -> list[Candidate]:
        """Legal candidates, best first; looks further down the list where the leak rule leaves too few."""
        text = wording(query, self.corpus)
        if text is None:
            return []
        scores_N = self._opened().scores(self._split().split(text))
        depth = self.top + SPARE
        while True:
            rows = best_rows(scores_N, depth)
            found = self._legal(query, rows.tolist(), scores_N[rows].tolist())
            if len(found) == self.top or len(rows) < depth:
                return found
            depth *= 4

    def _legal(self, query: Query, rows: list[int], scores: list[float]) -> list[Candidate]:
        found: list[Candidate] = []
        said: set[str] = set()
        for row, score in zip(rows, scores, strict=True):
            document = self._documents[int(self._rows[row])]
            if leak(query, document, *self._hashes(query, document)) or (self.distinct_texts and document.text in said):
                continue
            said.add(document.text)
            found.append(Candidate(document, score, Channel.LEXICAL))
            if len(found) == self.top:
                break
        return found

    def _hashes(self, query: Query, document: Document) -> tuple[str | None, str | None]:
        """sha256 of the pixels of both, None unless both have an image."""
        if query.image is None or document.image is None:
            return None, None
        return self._hash(query.image), self._hash(document.image)

    def _hash(self, image: ImageRef) -> str:
        assert self._open_image is not None
        if image not in self._pixels:
            if len(self._pixels) >= REMEMBERED:
                self._pixels.clear()
            self._pixels[image] = pixel_sha256(self._open_image(image))
        return self._pixels[image]

    def _split(self) -> Words:
        self._words = self._words or Words(self.words)
        return self._words

    def _told(self, documents: Sequence[Document]) -> str:
        constants = [self.bm25.k1, self.bm25.b]
        return fingerprint("lexical", corpus_fingerprint(documents), self._split().fingerprint(), constants)

    def _check(self, index: LexicalIndex, documents: Sequence[Document]) -> LexicalIndex:
        if index.fingerprint != self._told(documents):
            raise ValueError(
                f"the lexical index {index.folder} was built of another corpus, or with other words or bm25 settings; delete "
                f"{index.folder} to have it built again, or choose another folder"
            )
        return index

    def _opened(self) -> LexicalIndex:
        if self._index is None:
            raise RuntimeError("LexicalSearch knows no documents before load()")
        return self._index
