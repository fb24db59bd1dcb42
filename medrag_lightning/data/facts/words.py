"""Facts without any list of terms: the words that some, but not most, of the texts say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.data.facts.negation import DENIED, denied, tokens
from medrag_lightning.records import Document

MIN_LETTERS = 3


class WordFacts:
    """A fact is a word; ``no word`` where the text denies it. A floor for lists of terms, or for texts that have none.

    Args:
        min_documents: words of fewer documents tell nothing that another could repeat.
        max_share: words of a larger share of the documents are how everybody writes.
    """

    def __init__(self, min_documents: int = 2, max_share: float = 0.3) -> None:
        if min_documents < 1 or not 0 < max_share <= 1:
            got = f"{min_documents} and {max_share}"
            raise ValueError(f"facts: min_documents must be at least 1 and max_share lie in (0, 1], got {got}")
        self.min_documents, self.max_share = min_documents, max_share

    def facts(self, documents: Sequence[Document]) -> list[frozenset[str]]:
        """The telling words of each text."""
        said = [_said(document.text) for document in documents]
        counts = Counter(word for words in said for word in words)
        kept = {word for word, n in counts.items() if self.min_documents <= n <= self.max_share * len(documents)}
        return [words & kept for words in said]

    def fingerprint(self) -> str:
        """sha256 over the settings."""
        return fingerprint("word facts", self.min_documents, self.max_share)


def _said(text: str) -> frozenset[str]:
    words = tokens(text)
    both = zip(words, denied(words), strict=True)
    return frozenset(DENIED + word if no else word for word, no in both if len(word) >= MIN_LETTERS)
