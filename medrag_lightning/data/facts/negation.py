"""Which words of a text are denied: ``no effusion or pneumothorax`` (NegEx: Chapman et al., J Biomed Inform 2001)."""

from __future__ import annotations

import re
from collections.abc import Sequence

DENIED = "no "
"""Put before a fact that a text denies."""
REACH = 8  # words that a denial before reaches over
BACK = 6  # words that a denial after reaches back over
_TOKEN = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*|[.;:!?\n]")
_BEFORE = (
    ("no", "evidence", "of"),
    ("no", "sign", "of"),
    ("no", "signs", "of"),
    ("negative", "for"),
    ("free", "of"),
    ("absence", "of"),
    ("rather", "than"),
    ("resolution", "of"),
    ("no",),
    ("not",),
    ("without",),
    ("denies",),
    ("denied",),
    ("lacks",),
    ("never",),
)
_AFTER: tuple[tuple[str, ...], ...] = (
    ("is", "absent"),
    ("are", "absent"),
    ("was", "absent"),
    ("ruled", "out"),
    ("not", "seen"),
    ("not", "present"),
)
_AFTER += (("not", "identified"), ("has", "resolved"), ("have", "resolved"), ("is", "excluded"))
_ENDS = frozenset((*".;:!?\n", "but", "however", "although", "though", "except", "which", "that", "with", "yet", "persistent"))
_NO_DENIAL = (("no", "change"), ("no", "interval"), ("not", "only"), ("no", "increase"), ("no", "decrease"), ("no", "longer"))

_FIRST = frozenset(cue[0] for cue in (*_BEFORE, *_AFTER))


def tokens(text: str) -> list[str]:
    """Words in small letters, and the signs that end a clause; commas go on with it."""
    return _TOKEN.findall(text.casefold())


def denied(words: Sequence[str]) -> list[bool]:
    """Whether each of `tokens` is denied by words before it or after it in its clause."""
    found = [False] * len(words)
    for place in range(len(words)):
        if words[place] not in _FIRST:
            continue
        if any(_stands(words, place, cue) for cue in _NO_DENIAL):
            continue
        for cue in _BEFORE:
            if _stands(words, place, cue) and not any(_stands(words, place, after) for after in _AFTER):
                _mark(found, words, range(place + len(cue), min(place + len(cue) + REACH, len(words))))
                break
        if any(_stands(words, place, cue) for cue in _AFTER):
            _mark(found, words, range(place - 1, max(place - 1 - BACK, -1), -1))
    return found


def _stands(words: Sequence[str], place: int, cue: tuple[str, ...]) -> bool:
    return tuple(words[place : place + len(cue)]) == cue


def _mark(found: list[bool], words: Sequence[str], places: range) -> None:
    for place in places:
        if words[place] in _ENDS:
            break
        found[place] = True
