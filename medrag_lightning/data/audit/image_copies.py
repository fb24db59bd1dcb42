"""Which images of one collection are copies of each other, strictly enough to remove one of them.

Beside `perceptual_hash.twins`, which looks for leaks: a mirrored image is no copy (left is not right), two images that only
look alike are none, however many there are, and a copy made brighter until it burns out is found, because the darker one is
first made as bright (`_relit`).

``scripts/bench/copies.py`` measures what `DISTANCE` gives: of generated images that differ in their noise alone, and of public
ones, none is removed that is no copy; resized and brighter ones are found.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.data.audit.perceptual_hash import (
    BLOCK_ROWS,
    COARSE,
    ENOUGH,
    NEIGHBOURS,
    RANK,
    Floats,
    Thumbnails,
    Twin,
    held_frequencies,
    soft_signs,
)

DISTANCE = 0.045
"""1 - similarity up to which two images are copies. Images of one template that differ in noise alone begin at 0.05."""
STANDS_OUT = 0.2  # distance up to which an image that is far nearer than the next neighbours is a copy
STRICT_RATIO = 0.1  # of the distance to the next neighbours
WORTH_RELIGHTING = 0.6
DARK, BRIGHT = 2, 250  # grey levels between which brightness can be compared
BRIGHTER = 1.02  # by this factor at least


def image_copies(images: Thumbnails, distance: float = DISTANCE, told: Callable[[int, int], None] | None = None) -> list[Twin]:
    """Pairs (row, earlier row) of the same picture, by row, the most similar first.

    Two images are copies if they are at most `distance` apart; or, if there are `ENOUGH` images, at most `STANDS_OUT` apart and
    ten times as near as the image is to the neighbours behind `RANK`, so that a coarse copy of a picture like no other counts.

    Args:
        images: all of them, flat ones left out before.
        distance: 1 - similarity.
        told: is told how many rows are done, of how many.
    """
    coarse_ND = soft_signs(images.grey_NHW, COARSE).reshape(len(images), COARSE * COARSE)
    count = min(NEIGHBOURS + 1, len(images))  # itself is one
    found: dict[tuple[int, int], Twin] = {}
    for start in range(0, len(images) if count > 1 else 0, BLOCK_ROWS):
        near_BN = coarse_ND[start : start + BLOCK_ROWS] @ coarse_ND.T
        place_BK = np.argpartition(-near_BN, count - 1, axis=1)[:, :count]
        for twin in _block(images, start, place_BK, distance):
            later, earlier = max(twin.row, twin.pool_row), min(twin.row, twin.pool_row)
            found[later, earlier] = Twin(later, earlier, twin.similarity)
        if told is not None:
            told(min(start + BLOCK_ROWS, len(images)), len(images))
    return sorted(found.values(), key=lambda twin: (twin.row, -twin.similarity, twin.pool_row))


def similarity(images: Thumbnails, row_P: NDArray[np.int64], other_P: NDArray[np.int64]) -> Floats:
    """(P,) similarity of pairs of rows by as many coefficients as the smaller image holds, in whichever light suits them."""
    near_P = np.zeros(len(row_P), np.float32)
    held_P = held_frequencies(np.minimum(images.side_px_N[row_P], images.side_px_N[other_P]))
    for held in np.unique(held_P):
        part = np.flatnonzero(held_P == held)
        rows, places = np.unique(np.concatenate([row_P[part], other_P[part]]), return_inverse=True)
        signs_RD = soft_signs(images.grey_NHW[rows], int(held)).reshape(len(rows), -1)
        near_P[part] = np.einsum("pd,pd->p", signs_RD[places[: len(part)]], signs_RD[places[len(part) :]])
    for a, b in ((row_P, other_P), (other_P, row_P)):
        for part in _pieces(np.flatnonzero(near_P >= WORTH_RELIGHTING)):
            lit, mine, theirs = _relit(images.grey_NHW[a[part]], images.grey_NHW[b[part]])
            near_P[part[lit]] = np.maximum(near_P[part[lit]], _compared(mine, theirs, held_P[part[lit]]))
    return near_P


def _block(images: Thumbnails, start: int, place_BK: NDArray[np.int64], distance: float) -> list[Twin]:
    rows_BK = np.broadcast_to(np.arange(start, start + len(place_BK))[:, None], place_BK.shape)
    near_BK = similarity(images, rows_BK.ravel(), place_BK.ravel()).reshape(place_BK.shape)
    near_BK[rows_BK == place_BK] = -1.0
    limit_B = np.full(len(place_BK), 1 - distance)
    if len(images) >= ENOUGH:
        next_B = -np.sort(-near_BK, axis=1)[:, RANK]
        limit_B = np.minimum(limit_B, np.maximum(1 - STRICT_RATIO * (1 - next_B), 1 - STANDS_OUT)) if distance > 0 else limit_B
    picked = np.argwhere(near_BK >= limit_B[:, None] - 1e-6)
    return [Twin(int(rows_BK[b, k]), int(place_BK[b, k]), float(near_BK[b, k])) for b, k in picked]


def _relit(
    dark_PHW: NDArray[np.uint8], bright_PHW: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.uint8]]:
    """Which pairs have a second image that is brighter and burnt out; the first of these made as bright, and the second."""
    dark, bright = dark_PHW.astype(np.float32), bright_PHW.astype(np.float32)
    fair = (dark > DARK) & (dark < BRIGHT) & (bright > DARK) & (bright < BRIGHT)
    factor_P = (dark * bright * fair).sum(axis=(1, 2)) / np.maximum((dark * dark * fair).sum(axis=(1, 2)), 1.0)
    lit = np.flatnonzero((factor_P > BRIGHTER) & (bright >= BRIGHT).any(axis=(1, 2)))
    made = np.clip(np.rint(dark[lit] * factor_P[lit, None, None]), 0, 255).astype(np.uint8)
    return lit, made, bright_PHW[lit]


def _compared(mine_PHW: NDArray[np.uint8], their_PHW: NDArray[np.uint8], held_P: NDArray[np.int64]) -> Floats:
    near_P = np.zeros(len(held_P), np.float32)
    for held in np.unique(held_P):
        part = np.flatnonzero(held_P == held)
        a, b = (soft_signs(grey_PHW[part], int(held)).reshape(len(part), -1) for grey_PHW in (mine_PHW, their_PHW))
        near_P[part] = np.einsum("pd,pd->p", a, b)
    return near_P


def _pieces(places: NDArray[np.int64], size: int = 1024) -> list[NDArray[np.int64]]:
    return [places[start : start + size] for start in range(0, len(places), size)]
