"""Retrieval of texts by images and of images by texts, duplicate-aware, beside chance (recall@k, mean reciprocal rank)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.metrics.bootstrap import Bootstrap, Floats, Metric, weighted_mean

DEPTHS = (1, 5, 10)
DIRECTIONS = ("image_to_text", "text_to_image")
CHANCE = "chance"
BLOCK_ROWS = 512

Places = NDArray[np.int64]
Vectors = NDArray[np.float32]
Alike = Callable[[slice], NDArray[np.bool_]]
"""From some of the N pairs to (rows, N): which pairs are right answers to theirs, beside copies."""


@dataclass(frozen=True, slots=True)
class PairRanks:
    """How well a set of N pairs finds itself again: each image asks for its text, each text for its image.

    What is searched are the different texts, and the different images: a copy takes no second place. Right answers are all
    texts that stand with the image (or a copy of it), and all images that stand with the text.

    Attributes:
        rank_N: by direction, the place (from 1) of the best-placed right answer; a wrong answer with the same score is
            placed before it, so vectors that are all equal gain nothing.
        right_N: by direction, the number of right answers.
        searched: by direction, the number of answers to choose from.
        cluster_N: what the bootstrap draws together (patient, study or image).
    """

    rank_N: Mapping[str, Places]
    right_N: Mapping[str, Places]
    searched: Mapping[str, int]
    cluster_N: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.cluster_N)


@dataclass(frozen=True, slots=True)
class RankingRow:
    """Recall@k and mean reciprocal rank of one system, by ``direction_metric``."""

    system: str
    metrics: Mapping[str, Metric]


@dataclass(frozen=True, slots=True)
class RankingTable:
    """The systems, chance last, and the paired differences of the first system to the others but chance."""

    rows: tuple[RankingRow, ...]
    differences: tuple[RankingRow, ...]
    pairs: int
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "pairs": self.pairs,
            "rows": [_row_json(row) for row in self.rows],
            "differences": [_row_json(row) for row in self.differences],
            "notes": list(self.notes),
        }


def rank_pairs(
    image_ND: Vectors, text_ND: Vectors, key_N2: Places, cluster_N: Sequence[str], alike: Alike | None = None
) -> PairRanks:
    """Ranks all N pairs by the product of their vectors; equal image keys (column 0) or text keys (column 1) are duplicates.

    With `alike` the texts and images of pairs that are alike (that state the same) are right answers as well.

    Raises:
        ValueError: the numbers of rows differ.
    """
    counts = {len(image_ND), len(text_ND), len(key_N2), len(cluster_N)}
    if len(counts) != 1:
        raise ValueError(f"vectors, keys and clusters must be of the same pairs, got {sorted(counts)} rows")
    found = {
        "image_to_text": _search(image_ND, text_ND, key_N2[:, 0], key_N2[:, 1], alike),
        "text_to_image": _search(text_ND, image_ND, key_N2[:, 1], key_N2[:, 0], alike),
    }
    return PairRanks(
        {name: rank_N for name, (rank_N, _, _) in found.items()},
        {name: right_N for name, (_, right_N, _) in found.items()},
        {name: searched for name, (_, _, searched) in found.items()},
        tuple(cluster_N),
    )


def scores_of(ranks: PairRanks, direction: str) -> dict[str, Floats]:
    """Each pair's own scores in a direction: 1 where a right answer is among the first k, and the reciprocal of its place."""
    place = ranks.rank_N[direction].astype(np.float64)
    return {**{f"recall@{k}": (place <= k).astype(np.float64) for k in DEPTHS}, "mrr": 1 / place}


def chance_scores(ranks: PairRanks, direction: str) -> dict[str, Floats]:
    """What a random order is expected to score on each pair, exactly.

    With m right answers among U, the first one stands behind place k with probability
    ``(U-m)(U-m-1)...(U-m-k+1) / U(U-1)...(U-k+1)``.
    """
    total, right = ranks.searched[direction], ranks.right_N[direction].astype(np.float64)
    missed, reciprocal = np.ones(len(ranks)), np.zeros(len(ranks))
    found: dict[str, Floats] = {}
    for place in range(1, max(total, *DEPTHS) + 1):
        before = missed
        missed = before * np.maximum(0.0, 1 - right / max(1, total - place + 1))
        reciprocal += (before - missed) / place
        if place in DEPTHS:
            found[f"recall@{place}"] = 1 - missed
    return {**found, "mrr": reciprocal}


def ranking_summary(ranks: PairRanks) -> dict[str, float]:
    """Means over pairs by name, and those of a random order with the ending ``_chance``. Empty for no pairs."""
    if not len(ranks):
        return {}
    sides = {"": _by_direction(ranks, scores_of), f"_{CHANCE}": _by_direction(ranks, chance_scores)}
    return {f"{name}{end}": float(values.mean()) for end, found in sides.items() for name, values in found.items()}


def ranking_table(systems: Mapping[str, PairRanks], settings: Bootstrap | None = None) -> RankingTable:
    """Systems side by side over the same pairs, with intervals over clusters; the first is compared with the others.

    Raises:
        ValueError: there is no system, or they rank different pairs.
    """
    if not systems:
        raise ValueError("no retriever has ranked anything")
    settings = settings or Bootstrap()
    first = next(iter(systems.values()))
    if any(other.cluster_N != first.cluster_N for other in systems.values()):
        raise ValueError(f"the retrievers {', '.join(systems)} have ranked different pairs")
    scores = {name: _by_direction(ranks, scores_of) for name, ranks in systems.items()}
    chance = _by_direction(first, chance_scores)
    rows = [_row(name, values, first.cluster_N, settings) for name, values in (*scores.items(), (CHANCE, chance))]
    main, *others = scores
    gaps = {other: {k: scores[main][k] - scores[other][k] for k in scores[main]} for other in others}
    differences = [_row(f"{main} - {other}", gap, first.cluster_N, settings) for other, gap in gaps.items()]
    return RankingTable(tuple(rows), tuple(differences), len(first), tuple(_notes(rows, differences, first)))


def _search(
    asking_ND: Vectors, asked_ND: Vectors, asking_key_N: Places, asked_key_N: Places, alike: Alike | None
) -> tuple[Places, Places, int]:
    """Rank of the best right answer and number of right answers of each pair, and the number of different answers."""
    _, first, answer_N = np.unique(asked_key_N, return_index=True, return_inverse=True)
    order_N = np.argsort(answer_N, kind="stable")
    begin_U = np.searchsorted(answer_N[order_N], np.arange(len(first)))
    right_of: dict[int, set[int]] = defaultdict(set)
    for key, answer in zip(asking_key_N.tolist(), answer_N.tolist(), strict=True):
        right_of[key].add(answer)
    ranks, counts = np.zeros(len(asking_ND), np.int64), np.zeros(len(asking_ND), np.int64)
    for start in range(0, len(asking_ND), BLOCK_ROWS):
        score_FN = asking_ND[start : start + BLOCK_ROWS] @ asked_ND[first].T
        right_FN = np.zeros(score_FN.shape, np.bool_)
        for row, key in enumerate(asking_key_N[start : start + BLOCK_ROWS].tolist()):
            right_FN[row, list(right_of[key])] = True
        if alike is not None:
            right_FN |= np.logical_or.reduceat(alike(slice(start, start + BLOCK_ROWS))[:, order_N], begin_U, axis=1)
        best_F1 = np.where(right_FN, score_FN, -np.inf).max(axis=1, keepdims=True)
        ranks[start : start + BLOCK_ROWS] = 1 + ((score_FN >= best_F1) & ~right_FN).sum(axis=1)
        counts[start : start + BLOCK_ROWS] = right_FN.sum(axis=1)
    return ranks, counts, len(first)


def _by_direction(ranks: PairRanks, score: Callable[[PairRanks, str], dict[str, Floats]]) -> dict[str, Floats]:
    return {f"{d}_{name}": values for d in DIRECTIONS for name, values in score(ranks, d).items()}


def _row(system: str, scores: Mapping[str, Floats], clusters: Sequence[str], settings: Bootstrap) -> RankingRow:
    found = {name: settings.metric(weighted_mean(values), clusters) for name, values in scores.items()}
    return RankingRow(system, found)


def _notes(rows: Sequence[RankingRow], differences: Sequence[RankingRow], ranks: PairRanks) -> list[str]:
    """How many different answers there are, and what the first system should win against and does not."""
    notes = []
    for direction, what in (("image_to_text", "texts"), ("text_to_image", "images")):
        if ranks.searched[direction] < len(ranks):
            notes.append(
                f"{len(ranks)} pairs have {ranks.searched[direction]} different {what}; only different ones are searched"
            )
    main, chance = rows[0], rows[-1]
    for direction in DIRECTIONS:
        name, words = f"{direction}_mrr", direction.replace("_", " ")
        if not main.metrics[name].low > chance.metrics[name].value:
            notes.append(f"{words}: {main.system} is not shown to be better than chance")
        for gap in differences:
            if not gap.metrics[name].low > 0:
                notes.append(f"{words}: {gap.system} is not shown to be positive")
    return notes


def _row_json(row: RankingRow) -> dict[str, Any]:
    return {"system": row.system, "metrics": {name: metric.as_json() for name, metric in row.metrics.items()}}
