"""Texts as the words that a lexical search compares: lower case, without stop words, brought to their stems."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from medrag_lightning.artifacts import fingerprint

INSTALL = "pip install 'medrag-lightning[text]'"
MOST_STEMS = 1 << 20  # words whose stem is remembered
WORD = re.compile(r"\w+")
PROBES = ("stenoses", "stenosis", "biopsied", "effusions", "radiological", "metastatic", "diagnoses", "lungs", "caring")


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class WordSettings:
    """How texts become words.

    Args:
        stopwords: ``english`` leaves out the 33 commonest words (Lucene's list), ``english_plus`` 179 of them, with question
            words; ``none`` keeps all.
        stemmer: ``english`` (Snowball) takes *effusions* and *effusion* as one word; ``none`` compares words as they are
            written, and needs no PyStemmer.
    """

    stopwords: Literal["english", "english_plus", "none"] = "english_plus"
    stemmer: Literal["english", "none"] = "english"

    def __post_init__(self) -> None:
        for name, allowed in {"stopwords": ("english", "english_plus", "none"), "stemmer": ("english", "none")}.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"words.{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")


class Words:
    """Splits texts into words.

    Raises:
        ValueError: the library that the settings need is not installed.
    """

    def __init__(self, settings: WordSettings) -> None:
        self.settings = settings
        self._dropped = _stopwords(settings.stopwords)
        self._stem = _stemmer() if settings.stemmer == "english" else None
        self._stem_of: dict[str, str] = {}

    def split(self, text: str) -> list[str]:
        """The words of a text in order, as often as they occur."""
        found = [word for word in WORD.findall(text.lower()) if word not in self._dropped]
        if self._stem is None:
            return found
        known = self._stem_of
        for word in found:
            if word not in known:
                if len(known) >= MOST_STEMS:
                    known.clear()
                    return self.split(text)
                known[word] = self._stem(word)
        return [known[word] for word in found]

    def fingerprint(self) -> str:
        """sha256 of settings, the list of stop words, and the stems of fixed words, which stand for the stemmer's version."""
        stems = [PROBES if self._stem is None else [self._stem(word) for word in PROBES]]
        return fingerprint("words", asdict(self.settings), sorted(self._dropped), WORD.pattern, stems)


def bm25s_library() -> Any:
    """The library bm25s, imported when it is first needed."""
    try:
        import bm25s
    except ImportError as error:
        raise ValueError(f"a lexical search needs the library bm25s, which is not installed: {INSTALL}") from error
    return bm25s


def _stopwords(name: str) -> frozenset[str]:
    if name == "none":
        return frozenset()
    lists = bm25s_library().stopwords
    return frozenset(lists.STOPWORDS_EN if name == "english" else lists.STOPWORDS_EN_PLUS)


def _stemmer() -> Callable[[str], str]:
    try:
        import Stemmer
    except ImportError as error:
        raise ValueError(
            f"words.stemmer=english needs the library PyStemmer, which is not installed: {INSTALL}, or set it to none"
        ) from error
    stem: Callable[[str], str] = Stemmer.Stemmer("english").stemWord
    return stem
