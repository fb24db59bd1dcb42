"""Which texts say the same in nearly the same words: shingles, MinHash buckets, then the exact share of common shingles.

Two reports may differ in one word and say the opposite. So texts that differ in a number, a side or a negation are not
the same.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WORDS = 3  # of a shingle
MIN_WORDS = 12  # of a text that can be recognised; shorter ones are alike by chance
LIKE = 0.7  # share of common shingles (Jaccard)
BANDS, ROWS = 16, 4
BUCKET = 200  # pairs that one bucket may give for one text
TELLING = frozenset(
    (
        *("no", "not", "without", "none", "never", "negative", "absent", "denies", "free"),
        *("left", "right", "bilateral", "unilateral", "upper", "lower", "anterior", "posterior", "medial", "lateral"),
        *("increased", "decreased", "larger", "smaller", "improved", "worsened", "new", "old"),
        *("benign", "malignant", "normal", "abnormal"),
    )
)
_WORD = re.compile(r"\w+")


def normalised(text: str) -> str:
    """Case, punctuation and spacing taken away."""
    return " ".join(_WORD.findall(text.casefold()))


def near_texts(texts: Sequence[str], pool: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs (text, text of the pool) that say the same in nearly the same words, in the order of the texts.

    Both hold normalised texts, each once; those of fewer than `MIN_WORDS` words are nobody's near-duplicate.
    """
    mine, theirs = _Shingled(texts), _Shingled(pool)
    pairs = sorted({pair for band in range(BANDS) for pair in _meet(mine.band(band), theirs.band(band))})
    return [(a, b) for a, b in pairs if _alike(mine.sets[a], theirs.sets[b]) and not _differ(texts[a], pool[b])]


class _Shingled:
    """Texts as sets of shingles and as MinHash signatures (texts, bands, rows)."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.sets: dict[int, NDArray[np.uint64]] = {}
        for number, text in enumerate(texts):
            words = text.split()
            if len(words) >= MIN_WORDS:
                self.sets[number] = np.unique(_shingles(words))
        self.numbers = list(self.sets)
        self.signature_NS = _signatures(list(self.sets.values()))

    def band(self, band: int) -> dict[bytes, list[int]]:
        """Texts by what a band of their signatures is."""
        found: dict[bytes, list[int]] = defaultdict(list)
        part = np.ascontiguousarray(self.signature_NS[:, band * ROWS : (band + 1) * ROWS])
        for number, row in zip(self.numbers, part, strict=True):
            found[row.tobytes()].append(number)
        return found


def _shingles(words: Sequence[str]) -> NDArray[np.uint64]:
    codes = np.array([_code(word) for word in words], np.uint64)
    hashed = np.zeros(len(words) - WORDS + 1, np.uint64)
    for place in range(WORDS):
        hashed = _mixed(hashed + codes[place : place + len(hashed)] + np.uint64(place + 1))
    return hashed


@functools.lru_cache(maxsize=1 << 18)
def _code(word: str) -> int:
    """FNV-1a, 64 bits: the same in every process."""
    value = 0xCBF29CE484222325
    for byte in word.encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def _mixed(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection that scatters near numbers (splitmix64)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _signatures(sets: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """(texts, BANDS * ROWS): the least of each text's shingles under so many hash functions."""
    if not sets:
        return np.zeros((0, BANDS * ROWS), np.uint64)
    together, starts = np.concatenate(sets), np.cumsum([0, *(len(one) for one in sets[:-1])])
    keys = _mixed(np.arange(1, BANDS * ROWS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return np.stack([np.minimum.reduceat(_mixed(together ^ key), starts) for key in keys], axis=1)


def _meet(mine: dict[bytes, list[int]], theirs: dict[bytes, list[int]]) -> list[tuple[int, int]]:
    return [(a, b) for key, texts in mine.items() for a in texts for b in theirs.get(key, ())[:BUCKET]]


def _alike(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> bool:
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common >= LIKE * (len(a) + len(b) - common)


def _differ(a: str, b: str) -> bool:
    """Whether the words that only one of two texts has tell a number, a side or a negation."""
    return any(word in TELLING or any(sign.isdigit() for sign in word) for word in set(a.split()) ^ set(b.split()))
