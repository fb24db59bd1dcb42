"""Which relations of a term matter to a question, without a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.retrieval.stemming import STOP_WORDS, TOKENIZER, Stems


class WordOverlap:
    """A re-ranker (`interfaces.Reranker`): the share of a question's words (stems, without stop words) that a text has."""

    def __init__(self) -> None:
        self._stems = Stems()

    def relevance(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """(P,) in [0, 1]; 0 for a question without words."""
        different = list(dict.fromkeys(text for pair in pairs for text in pair))
        stems = dict(
            zip(different, map(frozenset, self._stems.of([text.replace("_", " ") for text in different])), strict=True)
        )
        shares = np.zeros(len(pairs), np.float32)
        for place, (question, text) in enumerate(pairs):
            wanted = stems[question] - self._stems.stop or stems[question]
            shares[place] = len(wanted & stems[text]) / max(len(wanted), 1)
        return shares

    def fingerprint(self) -> str:
        """Of the rule."""
        return fingerprint("word overlap", TOKENIZER, sorted(STOP_WORDS))
