"""English words reduced to their stems by SQLite's full-text search, the same way in a graph's names and in questions."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

TOKENIZER = "porter unicode61 remove_diacritics 2"
MAX_CHARS = 4096
"""Of a longer text only the beginning is looked at."""
NEEDED = "the sqlite3 of this Python lacks FTS5 (full-text search), which the graph needs; use a Python built with it"
_FUNCTION_WORDS = (
    "a about after all also am an and any are as at be because been before being both but by can could did do does doing "
    "due for from had has have having he her here him his how i if in into is it its kind like likely main many may me "
    "might more most much must my no nor not of on only or other our out own patient shall she should show shown so some "
    "such than that the their them then there these they this those through to too type under up very was we were what when "
    "where which while who whom whose why will with within without would yes you your"
)
_GENERIC_WORDS = "image picture scan seen disease disorder syndrome condition finding symptom sign cause"
STOP_WORDS = frozenset(_FUNCTION_WORDS.split(" "))
GENERIC_WORDS = frozenset(_GENERIC_WORDS.split(" "))
"""Words that alone say nothing about which term of a medical graph is meant."""


class Stems:
    """Stems of texts, in order: lower case, without accents and endings (Porter).

    `stop` are those of words that carry no meaning, `empty` those together with words that name no term of a medical graph.
    """

    def __init__(self) -> None:
        self._memory = sqlite3.connect(":memory:")
        try:
            self._memory.execute(f"CREATE VIRTUAL TABLE texts USING fts5(text, content='', tokenize='{TOKENIZER}')")
        except sqlite3.OperationalError as error:
            raise ValueError(NEEDED) from error
        self._memory.execute("CREATE VIRTUAL TABLE words USING fts5vocab(texts, instance)")
        self.stop = frozenset(stem for one in self.of(sorted(STOP_WORDS)) for stem in one)
        self.empty = self.stop.union(stem for one in self.of(sorted(GENERIC_WORDS)) for stem in one)

    def of(self, texts: Sequence[str]) -> list[list[str]]:
        """The stems of each text, of at most its first 4,096 characters."""
        rows = [(place, _sound(text[:MAX_CHARS])) for place, text in enumerate(texts)]
        self._memory.execute("INSERT INTO texts(texts) VALUES ('delete-all')")
        self._memory.executemany("INSERT INTO texts(rowid, text) VALUES (?, ?)", rows)
        found: list[list[str]] = [[] for _ in texts]
        for place, stem in self._memory.execute("SELECT doc, term FROM words ORDER BY doc, offset"):
            found[place].append(stem)
        return found


def _sound(text: str) -> str:
    """`text` as SQLite can hold it: without NUL, at which it may stop, and half characters."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
