"""Facts by a list of terms: which of them a text names, and whether it affirms or denies them."""

from __future__ import annotations

from collections.abc import Sequence

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.data.facts.chest import CHEST
from medrag_lightning.data.facts.negation import DENIED, denied, tokens
from medrag_lightning.interfaces import Table
from medrag_lightning.records import Document
from medrag_lightning.records.terms import read_term

Phrase = tuple[str, ...]


class TermFacts:
    """A fact is a term that a text names, by any of its names; ``no term`` where the text denies it (`negation`).

    The longest name wins: ``pleural effusion`` is not ``effusion``. A term that is both affirmed and denied in one text (one
    side each, often) is affirmed.

    Args:
        terms: each term with the words that name it; null, with no ontology either, for the fourteen observations of chest
            radiographs in `chest.CHEST`.
        ontology: a table of terms, such as `data.tables.Ontology`: its preferred names and synonyms.
        shortest: names of an ontology with fewer letters are left out; many are abbreviations that mean other things as well.
    """

    def __init__(self, terms: dict[str, list[str]] | None = None, ontology: Table | None = None, shortest: int = 4) -> None:
        if terms is not None and not terms:
            raise ValueError("facts: terms is empty; name terms, or leave it out for the observations of chest radiographs")
        named = {} if ontology is None else _of_ontology(ontology, shortest)
        named |= terms if terms is not None else CHEST if ontology is None else {}
        self.named: dict[Phrase, str] = {}
        for term, names in named.items():
            for name in (term, *names):
                if not tokens(name):
                    raise ValueError(f"facts: the term {term!r} has a name without a letter or a digit, {name!r}; leave it out")
                self.named.setdefault(tuple(tokens(name)), term)
        self._longest: dict[str, int] = {}
        for phrase in self.named:
            self._longest[phrase[0]] = max(self._longest.get(phrase[0], 0), len(phrase))

    def facts(self, documents: Sequence[Document]) -> list[frozenset[str]]:
        """The terms that each text affirms, and those that it denies with ``no `` before them."""
        return [self._of(document.text) for document in documents]

    def fingerprint(self) -> str:
        """sha256 over the terms and their names."""
        return fingerprint("term facts", sorted([*phrase, term] for phrase, term in self.named.items()))

    def _of(self, text: str) -> frozenset[str]:
        words = tokens(text)
        no = denied(words)
        found: dict[str, bool] = {}
        place = 0
        while place < len(words):
            size = self._size(words, place)
            if size:
                term = self.named[tuple(words[place : place + size])]
                found[term] = found.get(term, True) and no[place]
            place += size or 1
        return frozenset(DENIED + term if is_denied else term for term, is_denied in found.items())

    def _size(self, words: Sequence[str], place: int) -> int:
        """Words of the longest name that begins here; 0 for none."""
        longest = self._longest.get(words[place], 0)
        return next((size for size in range(longest, 0, -1) if tuple(words[place : place + size]) in self.named), 0)


def _of_ontology(ontology: Table, shortest: int) -> dict[str, list[str]]:
    """Names of each term; ValueError where the table holds no terms."""
    documents = ontology.documents()
    terms = [term for document in documents if (term := read_term(document.id, document.text)) is not None]
    if not terms:
        raise ValueError(f"facts: none of the {len(documents)} documents of the ontology is a term; name a table of terms")
    kept = {term.name: [name for name in term.names if len(name) >= shortest and tokens(name)] for term in terms}
    return {name: names for name, names in kept.items() if names and tokens(name)}
