"""Documents that speak for a wrong answer to a question, most to the point first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.artifacts import counter_rng
from medrag_lightning.metrics.parsing import stated_choice, tokens_of
from medrag_lightning.records import AnswerType, Document, Query


class Contradictions:
    """Finds them: first what a generated world knows to mislead; then, for a closed question, documents whose text states one
    of its choices and that is not the gold one (`stated_choice`: as whole words, undenied, no second choice).

    A stated choice may be of another matter ("no" above all). So those documents come first that share the rarest words with
    the question; equals come in an order drawn for the query.

    Args:
        documents: the corpus.
    """

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = list(documents)
        self._by_id = {document.id: document for document in documents}
        self._stated: dict[tuple[str, ...], list[str | None]] = {}
        self._places: dict[str, NDArray[np.int64]] = {}
        self._root_words = np.ones(len(self.documents))

    def of(self, query: Query, seed: int) -> Iterator[Document]:
        """The documents in order; whether they are legal for the query is not looked at."""
        yield from (self._by_id[name] for name in query.poison_ids if name in self._by_id)
        if query.answer_type is AnswerType.CLOSED and query.answer is not None:
            told = self._told(query.choices)
            wrong = [place for place, choice in enumerate(told) if choice not in (None, query.answer)]
            tie = counter_rng(seed, "contradicting evidence", query.id).random(len(self.documents))
            nearness = self._nearness(query)
            for place in sorted(wrong, key=lambda at: (-nearness[at], tie[at])):
                yield self.documents[place]

    def _told(self, choices: tuple[str, ...]) -> list[str | None]:
        """The choice that each document states."""
        if choices not in self._stated:
            self._stated[choices] = [stated_choice(document.text, choices) for document in self.documents]
        return self._stated[choices]

    def _nearness(self, query: Query) -> NDArray[np.float64]:
        """For each document, the sum over the question's words in its text of log(documents / documents with the word), divided
        by the root of how many different words the text has: a long text has any word.
        """
        if not self._places:
            places: dict[str, list[int]] = defaultdict(list)
            for at, document in enumerate(self.documents):
                words = set(tokens_of(document.text))
                self._root_words[at] = max(1, len(words)) ** 0.5
                for word in words:
                    places[word].append(at)
            self._places = {word: np.array(rows) for word, rows in places.items()}
        total = np.zeros(len(self.documents))
        for word in set(tokens_of(query.question)) - {word for choice in query.choices for word in tokens_of(choice)}:
            if (rows := self._places.get(word)) is not None:
                total[rows] += np.log(len(self.documents) / len(rows))
        return total / self._root_words
