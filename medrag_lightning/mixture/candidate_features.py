"""What is known of a candidate when a question is answered, as numbers: how it was found, what it says, what the reader makes
of it alone.

Nothing here looks at a gold answer, at `relevant_ids`, `poison_ids` or `need`: the same numbers can be had for a question that
nobody has answered yet.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.mixture.answers import Floats, log_softmax
from medrag_lightning.records import Candidate, Channel, Query

Float32s = NDArray[np.float32]
_CHANNELS = tuple(str(channel) for channel in Channel)
GROUPS: dict[str, tuple[str, ...]] = {
    "retrieval": (
        "score, standardised over the candidates",
        "score below the best, in standard deviations",
        "score as it is, /10",
        "spread of the scores",
        "1 / (1 + place)",
        *(f"found by {name}" for name in _CHANNELS),
    ),
    "documents": (
        "share of the question's words in the text",
        "that share less its mean",
        "share of the others with the same text",
        "has an image",
        "has a text",
    ),
    "answers": (
        "closed",
        "probability of its answer",
        "margin to the next answer",
        "entropy / log C",
        "how likely the others find its answer",
        "how likely they do, by retrieval score",
        "that, below the best",
        "its answer's words in its text",
        "choices named in its text",
        "texts that name its answer",
        "1 / C",
    ),
}
"""The features by group, in the order of the array; those of `answers` are 0 for an open question."""
FEATURES = tuple(name for names in GROUPS.values() for name in names)
HASHED = 32
QUESTION_FEATURES = HASHED + 3
"""Signed hashes of the question's words (32), whether it has an image, whether it is closed, 1 / its number of choices."""
_TINY = 1e-6


def candidate_features(query: Query, candidates: Sequence[Candidate], logp_KC: Floats | None) -> Float32s:
    """float32 (K, F), F = len(FEATURES), for K candidates as they were found, best first.

    Args:
        query: its question and choices are looked at, nothing else.
        candidates: at least one.
        logp_KC: for a closed question, the log-probabilities (nats) of its choices with each candidate alone; None for an open
            one, of which nothing is known but how its candidates were found and what they say.

    Raises:
        ValueError: the shapes do not fit.
    """
    if not candidates or (logp_KC is not None and logp_KC.shape != (len(candidates), len(query.choices))):
        told = None if logp_KC is None else logp_KC.shape
        raise ValueError(f"query {query.id!r}: {len(candidates)} candidates, {len(query.choices)} choices and scores {told}")
    word_sets = [_words(one.document.text) for one in candidates]
    made = [*_retrieval(candidates), *_documents(query, candidates, word_sets)]
    if logp_KC is None:
        made += [np.zeros(len(candidates))] * len(GROUPS["answers"])
    else:
        made += _answers(query, word_sets, log_softmax(np.asarray(logp_KC, np.float64), axis=1), made[0])
    return np.stack(made, axis=1).astype(np.float32)


def question_features(query: Query) -> Float32s:
    """float32 (Q,): what a gate looks at; see `QUESTION_FEATURES`."""
    made = np.zeros(QUESTION_FEATURES, np.float32)
    for word in sorted(_words(query.question)):
        digest = zlib.crc32(word.encode())
        made[digest % HASHED] += 1.0 if digest >> 16 & 1 else -1.0
    made[HASHED:] = query.image is not None, bool(query.choices), 1 / len(query.choices) if query.choices else 0.0
    return made


def found_by_image(candidates: Sequence[Candidate]) -> NDArray[np.bool_]:
    """bool (K,): whether the question's image found it (``image_to_*``); a text found the others, or nobody searched."""
    return np.array([str(one.channel).startswith("image_to_") for one in candidates], bool)


def _retrieval(candidates: Sequence[Candidate]) -> list[Floats]:
    score_K = np.array([one.score for one in candidates], np.float64)
    spread = score_K.std()
    scaled_K = (score_K - score_K.mean()) / max(spread, _TINY)
    below_K = (score_K - score_K.max()) / max(spread, _TINY)
    place_K = 1 / (1 + np.arange(len(candidates), dtype=np.float64))
    found = [np.array([float(one.channel == name) for one in candidates]) for name in _CHANNELS]
    return [scaled_K, below_K, score_K / 10, np.full(len(candidates), spread), place_K, *found]


def _documents(query: Query, candidates: Sequence[Candidate], word_sets: Sequence[frozenset[str]]) -> list[Floats]:
    asked, others = _words(query.question), max(1, len(candidates) - 1)
    shared_K = np.array([len(asked & words) / max(1, len(asked)) for words in word_sets])
    texts = [one.document.text for one in candidates]
    same_K = np.array([(texts.count(text) - 1) / others for text in texts])
    image_K = np.array([float(one.document.image is not None) for one in candidates])
    return [shared_K, shared_K - shared_K.mean(), same_K, image_K, np.array([float(bool(text)) for text in texts])]


def _answers(query: Query, word_sets: Sequence[frozenset[str]], logp_KC: Floats, scaled_K: Floats) -> list[Floats]:
    prob_KC, count = np.exp(logp_KC), logp_KC.shape[1]
    each, best_K = np.arange(len(prob_KC)), prob_KC.argmax(axis=1)
    ordered_KC = np.sort(prob_KC, axis=1)
    entropy_K = -(prob_KC * logp_KC).sum(axis=1) / np.log(count)
    others_K = (prob_KC[:, best_K].sum(axis=0) - prob_KC[each, best_K]) / max(1, len(each) - 1)
    weighted_K = (np.exp(log_softmax(scaled_K)) @ prob_KC)[best_K]
    choices = [_words(choice) for choice in query.choices]
    named_KC = np.array([[len(choice & words) / max(1, len(choice)) for choice in choices] for words in word_sets])
    plain = [np.ones(len(each)), ordered_KC[:, -1], ordered_KC[:, -1] - ordered_KC[:, -2], entropy_K]
    agreed = [others_K, weighted_K, weighted_K - weighted_K.max()]
    said = [named_KC[each, best_K], named_KC.sum(axis=1), named_KC.mean(axis=0)[best_K]]
    return [*plain, *agreed, *said, np.full(len(each), 1 / count)]


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))
