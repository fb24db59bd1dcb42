"""Answers exchanged for others in evidence and gold answer alike, so that a reader learns to read them, not to know them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from medrag_lightning.batches import Example
from medrag_lightning.records import Candidate


def substituted(example: Example, words: Sequence[str], rng: np.random.Generator) -> Example:
    """`example` with `words` renamed by one drawn permutation, in its evidence texts and its gold answer (corpus substitution,
    Longpre et al. 2021).

    Only where the gold answer is one of the words, and evidence is shown: elsewhere the answer could not be read. The choices
    of a closed question stay, since they hold the same words; ids, scores and images stay, too.

    Raises:
        ValueError: a closed question has some of the words among its choices, but not all of them.
    """
    query = example.query
    if query.answer is None or query.answer not in words or not example.candidates:
        return example
    if query.choices and not set(words) <= set(query.choices):
        raise ValueError(
            f"query {query.id!r}: its choices {list(query.choices)} lack some of evidence.substitute {list(words)}: its answer "
            "could become one that it does not offer"
        )
    new = dict(zip(words, (words[place] for place in rng.permutation(len(words))), strict=True))
    pattern = re.compile(r"\b(" + "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)) + r")\b")
    candidates = tuple(_renamed(candidate, pattern, new) for candidate in example.candidates)
    return replace(example, query=replace(query, answer=new[query.answer]), candidates=candidates)


def _renamed(candidate: Candidate, pattern: re.Pattern[str], new: Mapping[str, str]) -> Candidate:
    text = pattern.sub(lambda match: new[match[0]], candidate.document.text)
    return replace(candidate, document=replace(candidate.document, text=text))
