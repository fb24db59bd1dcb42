"""A small re-ranker that needs no download: how the words of question and text meet, weighed as training questions taught."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.artifacts import fingerprint, read_manifest, write_manifest
from medrag_lightning.retrieval.words import Words, WordSettings

SCHEMA = 1
SENTENCE = re.compile(r"(?<=[.!?;:])\s+")
FIT_AGAIN = "fit it again: python -m medrag_lightning reranker"
WINDOW = 24  # words that are looked at together
FEATURES = (
    "bm25",  # k1 0.9, b 0.4
    "bm25_long",  # k1 1.5, b 0.75: longer texts are marked down more
    "coverage",  # share of the question's information that the text has
    "missed",  # information of the rarest word that it lacks
    "pairs",  # share of the question's neighbouring words that are neighbours in the text
    "window",  # best share within 24 words
    "opening",  # share within the first 24 words
    "rest_of_text",  # how much of the text's own information is the question's (cosine)
    "repeats",  # how often the question's rarest word occurs, in logarithms
    "length",  # words of the text, in logarithms
)


Read = tuple[tuple[str, ...], dict[str, int], frozenset[tuple[str, str]], float]
"""A text's words, how often each occurs, its neighbouring words, and the length of its vector of information."""


class WordReranker:
    """A weighted sum of ten measures of how a question's words occur in a text (`FEATURES`), fitted to training questions.

    Stands alone once fitted: the file holds the weights, and how common each word was in the corpus it was fitted on. It knows
    no synonyms; a cross-encoder (`models.cross_encoder.CrossEncoder`) does. Fitted by `word_reranker_fit.fit_word_reranker`.

    Args:
        path: the file that the verb `reranker` wrote. Where there is none yet, the first question that is asked is an error.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.told: dict[str, Any] = {}
        if self.path.is_file():
            self._open()

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> WordReranker:
        """From weights and counts: ``words``, ``texts``, ``mean_words``, ``frequency``, ``mean``, ``scale``, ``weights``."""
        made = cls.__new__(cls)
        made.path = Path()
        made._take({"schema": SCHEMA, "features": list(FEATURES), **told})
        return made

    def _open(self) -> None:
        """Reads the file; ValueError where it is not there, or of another version."""
        if not self.path.is_file():
            raise ValueError(
                f"the re-ranker {self.path} is not there: fit it with python -m medrag_lightning reranker -c DATA (this "
                "configuration), or name another file"
            )
        told = read_manifest(self.path, FIT_AGAIN)
        if told.get("schema") != SCHEMA or told.get("features") != list(FEATURES):
            raise ValueError(f"{self.path} holds no re-ranker of this version (schema or features differ); {FIT_AGAIN}")
        self._take(told)

    def _take(self, told: Mapping[str, Any]) -> None:
        self.told = dict(told)
        self.words = Words(WordSettings(**told["words"]))
        self._texts, self._mean_words = int(told["texts"]), float(told["mean_words"])
        self._frequency: dict[str, int] = told["frequency"]
        arrays = [np.array(told[name], np.float64) for name in ("mean", "scale", "weights")]
        if any(array.shape != (len(FEATURES),) or not np.isfinite(array).all() for array in arrays):
            raise ValueError(f"a WordReranker needs {len(FEATURES)} finite means, scales and weights; fit it again")
        self._mean_F, self._scale_F, self._weight_F = arrays
        self._read = lru_cache(maxsize=4096)(self._read_text)
        self._fingerprint: str | None = None

    def save(self, path: str | Path) -> None:
        """Writes the file, atomically, with its own checksum."""
        self._needed()
        write_manifest(path, self.told)

    def relevance(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """(P,) the weighted sum for each (question, text)."""
        self._needed()
        standard_PF = (self.features(pairs) - self._mean_F) / self._scale_F
        return (standard_PF @ self._weight_F).astype(np.float32)

    def features(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """(P, F) the measures named in `FEATURES`."""
        told = np.zeros((len(pairs), len(FEATURES)))
        asked: dict[str, list[str]] = {}
        for row, (question, text) in enumerate(pairs):
            if question not in asked:
                asked[question] = self.words.split(question)
            told[row] = self._measures(asked[question], self._read(text))
        return told

    def information(self, word: str) -> float:
        """What it tells that a text has this word, in nats: BM25's inverse document frequency."""
        frequency = self._frequency.get(word, 0)
        return math.log(1 + (self._texts - frequency + 0.5) / (frequency + 0.5))

    def fingerprint(self) -> str:
        """Weights, counts and how texts become words."""
        self._needed()
        if self._fingerprint is None:
            self._fingerprint = fingerprint("word reranker", self.told, self.words.fingerprint())
        return self._fingerprint

    def _needed(self) -> None:
        """Reads the file now where it was not there when this was made."""
        if not self.told:
            self._open()

    def _read_text(self, text: str) -> Read:
        words = self.words.split(text)
        counted = Counter(words)
        norm = math.sqrt(sum(((1 + math.log(n)) * self.information(word)) ** 2 for word, n in counted.items()))
        return tuple(words), dict(counted), frozenset(pairwise(words)), norm

    def _measures(self, asked: Sequence[str], read: Read) -> list[float]:
        words, counted, neighbours, norm = read
        worth = {word: self.information(word) for word in asked}
        whole = sum(worth.values()) or 1.0
        shared = [word for word in worth if word in counted]
        pairs = list(pairwise(asked))
        weighed = sum(worth[a] + worth[b] for a, b in pairs) or 1.0
        rarest = max(worth, key=lambda word: worth[word], default="")
        cosine = sum((1 + math.log(counted[word])) * worth[word] ** 2 for word in shared)
        asked_norm = math.sqrt(sum(value**2 for value in worth.values())) or 1.0
        return [
            self._bm25(counted, shared, worth, len(words), 0.9, 0.4) / whole,
            self._bm25(counted, shared, worth, len(words), 1.5, 0.75) / whole,
            sum(worth[word] for word in shared) / whole,
            max((worth[word] for word in worth if word not in counted), default=0.0) / max(worth.values(), default=1.0),
            sum(worth[a] + worth[b] for a, b in pairs if (a, b) in neighbours) / weighed,
            self._window(words, worth) / whole,
            sum(worth[word] for word in worth if word in words[:WINDOW]) / whole,
            cosine / (norm * asked_norm) if norm else 0.0,
            math.log1p(counted.get(rarest, 0)),
            math.log1p(len(words)),
        ]

    def _bm25(
        self, counted: Mapping[str, int], shared: Sequence[str], worth: Mapping[str, float], length: int, k1: float, b: float
    ) -> float:
        marked = k1 * (1 - b + b * length / self._mean_words)
        return sum(worth[word] * counted[word] / (counted[word] + marked) for word in shared)

    @staticmethod
    def _window(words: Sequence[str], worth: Mapping[str, float]) -> float:
        """Most information of different words of the question within `WINDOW` neighbouring words of the text."""
        places = [(place, word) for place, word in enumerate(words) if word in worth]
        inside: Counter[str] = Counter()
        best = value = 0.0
        first = 0
        for place, word in places:
            inside[word] += 1
            value += worth[word] if inside[word] == 1 else 0.0
            while place - places[first][0] >= WINDOW:
                gone = places[first][1]
                inside[gone] -= 1
                value -= worth[gone] if inside[gone] == 0 else 0.0
                first += 1
            best = max(best, value)
        return best
