"""Which term of a graph a text means: one that it names, mentions, shares words with, or misspells."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from medrag_lightning.retrieval.graph_store import GraphStore
from medrag_lightning.retrieval.stemming import Stems

MAX_WORDS = 12  # of a mentioned name
MAX_QUESTION_WORDS = 256
MAX_ITEMS = 16  # of a wording
SHORTLIST = 50
SHARE = 0.75  # of the words that must be common where not all are
TYPO_CHARS = 256

_PLURAL = re.compile(r"(?<=\w\w)(?:ies|(?<=[sxz])es|(?<=[cs]h)es|(?<![suis])s)$")


@dataclass(frozen=True, slots=True)
class TermHit:
    """A term's row, how sure it is in (0, 1], and the words to rank its relations by."""

    row: int
    score: float
    about: str


class TermLookup:
    """Looks up terms.

    A question is searched for the terms that it mentions, longest names first, and otherwise for the name that it has most
    words of. ``term , relation`` (HeteroRAG, graph corpus; several with ``;`` between) is looked up as a name in any case, then
    by all its words in the best rank, by most of them, and at last as a name with typing errors.
    """

    def __init__(self, store: GraphStore) -> None:
        self.store, self._stems = store, Stems()

    def question(self, text: str) -> Iterator[TermHit]:
        """The terms that a question may be about, best first; none where it names nothing that is known."""
        exact = [(row, 1.0) for row in self.store.exact(text)]
        for row, score in exact or list(self._mentioned(text)) or self._sharing(text, of_name=True):
            yield TermHit(row, score, text)

    def wording(self, text: str) -> Iterator[TermHit]:
        """The terms of a generated wording, the first of each item before the second of any; none for an unknown one."""
        found = []
        for item in text.split(";")[:MAX_ITEMS]:
            term, _, relation = item.rpartition(",")
            if not term.strip() or self.store.exact(item):  # a name may have commas of its own
                term, relation = item, ""
            found.append([TermHit(row, score, relation) for row, score in self._term(term)])
        for turn in itertools.zip_longest(*found):
            yield from (hit for hit in turn if hit is not None)

    def _term(self, text: str) -> list[tuple[int, float]]:
        """All terms of this name, else the one that is most like it, if any is."""
        if exact := self.store.exact(text):
            return [(row, 1.0) for row in exact]
        (stems,) = self._stems.of([text])
        mine = list(dict.fromkeys(stems[:MAX_QUESTION_WORDS]))
        if not any(len(stem) > 2 and stem not in self._stems.empty for stem in mine):
            return []
        if found := self.store.by_words(mine, True, 1):
            row, _, told = found[0]
            return [(row, _common(mine, told.split()))]
        return self._sharing(text, of_name=False) or self._misspelt(text)

    def _mentioned(self, text: str) -> Iterator[tuple[int, float]]:
        """Terms whose name stands in the text, in any form of its words; of names that overlap the longest alone."""
        (stems,) = self._stems.of([text])
        stems = stems[:MAX_QUESTION_WORDS]
        spans = [
            (first, first + size) for size in range(min(MAX_WORDS, len(stems)), 0, -1) for first in range(len(stems) - size + 1)
        ]
        key_of = {span: " ".join(stems[slice(*span)]) for span in spans}
        called = self.store.called(list(dict.fromkeys(key_of.values())))
        taken: set[int] = set()
        given: set[int] = set()
        for span in spans:
            if taken.isdisjoint(range(*span)):
                meant = [row for row, name in called.get(key_of[span], ()) if self._is_meant(name, stems[slice(*span)], text)]
                taken.update(range(*span) if meant else ())
                yield from ((row, 1.0) for row in dict.fromkeys(meant) if row not in given)
                given.update(meant)

    def _is_meant(self, name: str, stems: Sequence[str], text: str) -> bool:
        """Whether words of a text are a name: those in capitals must stand there so, and only number may differ.

        Stems alone would take nasopharyngeal for nasopharyngitis.
        """
        if len(stems) == 1 and name.isupper():
            return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None
        return not self._stems.empty.issuperset(stems) and _words(name) <= _words(text)

    def _sharing(self, text: str, of_name: bool) -> list[tuple[int, float]]:
        """The term that shares at least two words with a text, and most of the name's words, or most of both."""
        (stems,) = self._stems.of([text])
        mine = [stem for stem in dict.fromkeys(stems[:MAX_QUESTION_WORDS]) if stem not in self._stems.stop]
        found = []
        for row, _, told in self.store.by_words(mine, False, SHORTLIST):
            name = set(told.split()) - self._stems.stop
            shared = len(name.intersection(mine))
            score = shared / max(len(name), 1) if of_name else _common(mine, name)
            if shared >= 2 and score >= SHARE:
                found.append((row, score))
        return sorted(found, key=lambda one: -one[1])[:1]

    def _misspelt(self, text: str) -> list[tuple[int, float]]:
        """The term whose name differs least from a text, by few letters: one in 5 to 8, two in 9 to 15, three in more."""
        asked = " ".join(text[: TYPO_CHARS + 1].casefold().split())
        if not 5 <= len(asked) <= TYPO_CHARS:
            return []
        allowed = 1 + (len(asked) >= 9) + (len(asked) >= 16)
        near = []
        for row, name, _ in self.store.by_letters(asked, SHORTLIST):
            changes = edits(asked, name.casefold(), allowed)
            if changes is not None:
                near.append((changes, row))
        return [(row, 1 - changes / len(asked)) for changes, row in sorted(near, key=lambda one: one[0])[:1]]


def edits(one: str, other: str, allowed: int) -> int | None:
    """Letters put in, left out, exchanged or swapped with their neighbour between two texts; None for more than `allowed`."""
    if abs(len(one) - len(other)) > allowed:
        return None
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, theirs in enumerate(other, 1):
            row.append(min(last[j] + 1, row[-1] + 1, last[j - 1] + (letter != theirs)))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == theirs:
                row[-1] = min(row[-1], before[j - 2] + 1)
        if min(row) > allowed and min(last) > allowed:
            return None
        before, last = last, row
    return last[-1] if last[-1] <= allowed else None


def _common(mine: Iterable[str], theirs: Iterable[str]) -> float:
    """Words in common by all words of both (Dice), in [0, 1]."""
    one, other = set(mine), set(theirs)
    return 2 * len(one & other) / max(len(one) + len(other), 1)


def _words(text: str) -> set[str]:
    """The words of a text without case, accents and the endings of plurals."""
    plain = "".join(one for one in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(one))
    return {_PLURAL.sub(lambda found: "y" if found[0] == "ies" else "", word) for word in re.findall(r"\w+", plain)}
