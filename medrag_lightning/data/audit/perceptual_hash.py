"""Which images show the same picture, whatever was done to its file: encoded anew, resized, mirrored, made brighter.

A thumbnail's cosine transform is reduced to soft signs, ``c / sqrt(c^2 + (0.1 rms)^2)``: coarse shapes, in which all chest
films are alike, weigh no more than fine detail, in which they differ. Mirroring changes only the signs of odd frequencies, so
the four mirrored similarities are sums of four products. No image is compared with every other one in full: blocked matrix
products find each image's nearest ones by 255 coefficients, and those alone are compared by up to 1,023, as many as the
smaller image holds.

Two images are the same picture if their similarity is `CERTAIN`, or if they are far nearer to each other than the image is to
its next neighbours (`RATIO`, `RATIO_SMALL`): small images, and images of one template, are all near, and a copy still stands
out. The numbers were chosen on public and generated images; ``scripts/bench/leaks.py`` measures what they give.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COARSE, FINE = 16, 32  # frequencies a side
HELD_SHARE = 0.6  # of an image's side in px: so many frequencies survive resizing and encoding
SOFTNESS = 0.1  # of the root mean square
CERTAIN = 0.97
POSSIBLE = 0.4
RATIO = 0.2  # of the distance to the next neighbours
RATIO_SMALL = 0.4  # the same for images too small for `FINE` detail, to which encoding does more
NEIGHBOURS = 12  # looked at in full
RANK = 5  # of the neighbour that the distance is compared with: so many copies an image may have
ENOUGH = 100  # images among which neighbours tell how near different pictures are
FLAT_LEVELS = 2.0  # standard deviation of grey levels under which an image shows nothing
BLOCK_ROWS = 256
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Twin:
    """A row and the row of the pool that shows the same picture; similarity in [-1, 1]."""

    row: int
    pool_row: int
    similarity: float


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Grey thumbnails and the shorter side of the images that they were made of."""

    grey_NHW: NDArray[np.uint8]
    side_px_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.grey_NHW)

    def take(self, rows: NDArray[np.int64]) -> Thumbnails:
        """Some of them, in the order of `rows`."""
        return Thumbnails(self.grey_NHW[rows], self.side_px_N[rows])


def is_flat(thumbnail_HW: NDArray[np.uint8]) -> bool:
    """Whether an image shows nothing (one grey level): such images are equal without being copies."""
    return float(thumbnail_HW.std()) < FLAT_LEVELS


def twins(images: Thumbnails, pool: Thumbnails) -> list[Twin]:
    """The images of a pool that show the same picture as one of `images`, best first for each.

    Flat images are to be left out before. The pool holds no image of `images` itself.
    """
    found: list[Twin] = []
    for start, place_BN in _nearest(images, pool):
        rows_B = np.arange(start, start + len(place_BN))
        near_BN = _fine(images, pool, rows_B, place_BN)
        for row, places, near in zip(rows_B, place_BN, near_BN, strict=True):
            order = np.argsort(-near)
            small_N = held_frequencies(np.minimum(images.side_px_N[row], pool.side_px_N[places])) < FINE
            limit_N = _limit(near[order], small_N, len(pool))
            found += [Twin(int(row), int(places[n]), float(near[n])) for n in order if near[n] >= limit_N[n]]
    return found


def _limit(near: Floats, small_N: NDArray[np.bool_], pool_size: int) -> NDArray[np.float64]:
    """The similarity from which on each neighbour is a copy; `near` is that of all of them, best first."""
    if pool_size < ENOUGH or len(near) <= RANK:
        return np.full(small_N.shape, CERTAIN)
    stands_out = 1 - np.where(small_N, RATIO_SMALL, RATIO) * (1 - float(near[RANK]))
    return np.clip(stands_out, POSSIBLE, CERTAIN)


def held_frequencies(side_px: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many frequencies a side an image of that shorter side holds."""
    return np.clip((side_px * HELD_SHARE).astype(np.int64), 4, FINE)


def _nearest(images: Thumbnails, pool: Thumbnails) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Blocks of rows, each with its first row and the pool rows that are nearest by coarse coefficients."""
    if not len(pool):
        return
    pool_parts = _parts(soft_signs(pool.grey_NHW, COARSE))
    count = min(NEIGHBOURS, len(pool))
    for start in range(0, len(images), BLOCK_ROWS):
        mine = _parts(soft_signs(images.grey_NHW[start : start + BLOCK_ROWS], COARSE))
        near_BP = _mirrored([a @ b.T for a, b in zip(mine, pool_parts, strict=True)])
        yield start, np.argpartition(-near_BP, count - 1, axis=1)[:, :count]


def _fine(images: Thumbnails, pool: Thumbnails, rows_B: NDArray[np.int64], place_BN: NDArray[np.int64]) -> Floats:
    """Similarity of rows and pool rows by as many coefficients as the smaller image of each pair holds."""
    near_BN = np.zeros(place_BN.shape, np.float32)
    side_BN = np.minimum(images.side_px_N[rows_B][:, None], pool.side_px_N[place_BN])
    held_BN = held_frequencies(side_BN)
    for held in np.unique(held_BN):
        a, b = np.nonzero(held_BN == held)
        mine = _parts(soft_signs(images.grey_NHW[rows_B], int(held)))
        theirs = _parts(soft_signs(pool.grey_NHW[place_BN[a, b]], int(held)))
        near_BN[a, b] = _mirrored([np.einsum("nd,nd->n", m[a], t) for m, t in zip(mine, theirs, strict=True)])
    return near_BN


def soft_signs(grey_NHW: NDArray[np.uint8], frequencies: int) -> Floats:
    """Soft signs of the first frequencies of each side, of length 1 in all; the mean grey level is left out."""
    side = grey_NHW.shape[1]
    basis_KH = _cosines(side)[:frequencies]
    signs_NKK = np.empty((len(grey_NHW), frequencies, frequencies), np.float32)
    for start in range(0, len(grey_NHW), BLOCK_ROWS):
        block = grey_NHW[start : start + BLOCK_ROWS].astype(np.float32)
        across = block.reshape(-1, side) @ basis_KH.T  # two products of large matrices instead of many of small ones
        across = across.reshape(len(block), side, -1).transpose(0, 2, 1).reshape(-1, side) @ basis_KH.T
        wave = across.reshape(len(block), frequencies, frequencies).transpose(0, 2, 1)
        wave[:, 0, 0] = 0
        softness = SOFTNESS * np.sqrt(np.mean(wave**2, axis=(1, 2), keepdims=True)) + 1e-6
        wave /= np.sqrt(wave**2 + softness**2)
        signs_NKK[start : start + BLOCK_ROWS] = wave / np.maximum(np.linalg.norm(wave, axis=(1, 2), keepdims=True), 1e-6)
    return signs_NKK


def _cosines(side: int) -> Floats:
    """The orthonormal cosine transform (DCT-II) of `side` values."""
    k, x = np.mgrid[:side, :side]
    basis = np.cos(np.pi * (x + 0.5) * k / side) * np.sqrt(2 / side)
    basis[0] /= np.sqrt(2)
    return np.asarray(basis, np.float32)


def _parts(signs_NKK: Floats) -> list[Floats]:
    """Coefficients by whether they are even or odd downwards and across, each (N, coefficients)."""
    return [np.ascontiguousarray(signs_NKK[:, a::2, b::2]).reshape(len(signs_NKK), -1) for a in (0, 1) for b in (0, 1)]


def _mirrored(products: Sequence[Floats]) -> Floats:
    """The best similarity over the four ways to mirror one of two images, from the products of their four parts."""
    ee, eo, oe, oo = products
    best: Floats = np.maximum(ee + oo + np.abs(eo + oe), ee - oo + np.abs(eo - oe))
    return best
