"""Fits a `WordReranker` to training questions whose right texts are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from medrag_lightning.retrieval.word_reranker import FEATURES, WordReranker
from medrag_lightning.retrieval.words import Words, WordSettings

RIDGE = 1e-3
STEPS = 100


@dataclass(frozen=True, slots=True)
class RerankExample:
    """A training question, the texts that a search found for it, and which of them are right."""

    question: str
    texts: tuple[str, ...]
    right: tuple[bool, ...]


def fit_word_reranker(
    examples: Sequence[RerankExample], corpus: Iterable[str], words: WordSettings | None = None
) -> WordReranker:
    """The weights that make the right texts likely among those found: softmax over each question's texts, in nats.

    Args:
        examples: training questions, never those that the re-ranker is measured on; those without a right text, or with right
            ones only, teach nothing and are left out.
        corpus: texts that tell how common words are.
        words: how texts become words; null for the defaults.

    Raises:
        ValueError: no example teaches anything.
    """
    useful = [one for one in examples if any(one.right) and not all(one.right)]
    if not useful:
        raise ValueError("no training question has both right and wrong texts among those found; search deeper, or give more")
    reranker = WordReranker.of(_counts(corpus, words or WordSettings()))
    features = [reranker.features([(one.question, text) for text in one.texts]) for one in useful]
    whole = np.concatenate(features)
    mean_F, scale_F = whole.mean(axis=0), whole.std(axis=0)
    scale_F[scale_F < 1e-9] = 1.0
    weight_F = _weights([(one - mean_F) / scale_F for one in features], [np.array(one.right) for one in useful])
    fitted = {"mean": mean_F.tolist(), "scale": scale_F.tolist(), "weights": weight_F.tolist(), "questions": len(useful)}
    return WordReranker.of(reranker.told | fitted)


def _counts(corpus: Iterable[str], words: WordSettings) -> dict[str, object]:
    """How common words are, and weights that stand for nothing yet."""
    split, frequency, texts, total = Words(words).split, Counter[str](), 0, 0
    for text in corpus:
        found = split(text)
        frequency.update(set(found))
        texts, total = texts + 1, total + len(found)
    flat = [1.0] * len(FEATURES)
    told = {"words": asdict(words), "texts": texts, "mean_words": max(total / max(texts, 1), 1.0)}
    return told | {"frequency": dict(frequency), "mean": [0.0] * len(FEATURES), "scale": flat, "weights": flat}


def _weights(features: Sequence[NDArray[np.float64]], right: Sequence[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """Minimises the mean over questions of -log(sum of softmax over the right texts), with a small ridge."""
    owner = torch.from_numpy(np.repeat(np.arange(len(features)), [len(one) for one in features]))
    input_PF, good = torch.from_numpy(np.concatenate(features)), torch.from_numpy(np.concatenate(right))
    weight_F = torch.zeros(input_PF.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight_F], max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def log_sums(score_P: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        largest = torch.full((len(features),), -torch.inf, dtype=torch.float64).scatter_reduce(
            0, chosen, score_P.detach(), "amax"
        )
        total = torch.zeros(len(features), dtype=torch.float64).index_add(0, chosen, (score_P - largest[chosen]).exp())
        return total.log() + largest

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        score_P = input_PF @ weight_F
        told = (log_sums(score_P, owner) - log_sums(score_P[good], owner[good])).mean() + RIDGE * weight_F.square().sum()
        told.backward()  # type: ignore[no-untyped-call]
        return told

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return weight_F.detach().numpy()
