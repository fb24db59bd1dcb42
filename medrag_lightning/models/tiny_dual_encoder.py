"""A dual encoder that needs no download and no training: hand-made image and text features, projected at random.

For first runs, tests and machines without a network. Images find images that look alike (layout, colour, edge
directions), texts find texts that share words. The two live in separate spaces: no image is compared with a text.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medrag_lightning.artifacts import counter_rng, fingerprint

SIDE_PX = 32  # every image is brought to this square; edges are taken there
CELL_PX = 8  # cells of the edge-direction histograms
LAYOUT_PX = 8  # side of the thumbnail
DIRECTIONS = 9
COLOUR_LEVELS = 4
TEXT_BUCKETS = 1 << 13
_WORD = re.compile(r"\w+(?:[-']\w+)*")
_FUNCTION_WORDS = frozenset(
    """a an and any are as at be been but by can could do does for from has have how if in into is it its no not of on
    or seen shown shows so such than that the their there these this those to was were what where which who why will
    with image picture figure patient""".split()  # noqa: SIM905  (a list of 60 strings is no clearer)
)


class TinyDualEncoder:
    """Deterministic image and text vectors, each a unit vector of width `dim`; implements `interfaces.Retriever`.

    Images: an 8 x 8 thumbnail, a 4 x 4 x 4 colour histogram and edge-direction histograms (Dalal and Triggs 2005) of 16
    cells, each group centred and of unit norm, then a seeded Gaussian projection (Johnson-Lindenstrauss). Texts: hashed
    words, word pairs and 4-letter pieces with sublinear counts 1 + ln(n), signed (Weinberger et al. 2009), then another
    seeded projection. Sums run in float64, so that vectors do not depend on the batch they are computed in.

    Args:
        dim: width D of the vectors.
        seed: of both projections.
    """

    def __init__(self, dim: int = 256, seed: int = 0) -> None:
        if dim < 8:
            raise ValueError(f"dim must be at least 8, got {dim}")
        self._dim, self.seed = dim, seed

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return self._dim

    @property
    def shared_space(self) -> bool:
        """False: images and texts live in separate spaces."""
        return False

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """(B, D) unit vectors of RGB or grey images of any size."""
        if not images:
            return np.zeros((0, self.dim), np.float32)
        return _unit(np.stack([image_features(image) for image in images]) @ self._image_projection).astype(np.float32)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(B, D) unit vectors. All texts without a letter or digit get the same one."""
        vectors = np.zeros((len(texts), self.dim), np.float64)
        for place, text in enumerate(texts):
            buckets, weights = text_features(text)
            vectors[place] = weights @ self._text_projection[buckets]
        return _unit(vectors).astype(np.float32)

    def describe(self) -> dict[str, str]:
        """The parts of the fingerprint: the settings, and vectors of fixed probes, which stand for the code itself."""
        ramp = np.add.outer(np.arange(48), np.arange(64))[..., None] * np.array([2, 3, 5]) % 256
        image = self.embed_images([Image.fromarray(ramp.astype(np.uint8))])
        text = self.embed_texts(["Right lower-lobe opacity"])
        rounded = np.round(np.concatenate([image, text]) * 1e3).astype(np.int32)
        return {
            "name": "TinyDualEncoder",
            "weights": fingerprint(self.dim, self.seed),
            "transform": fingerprint(rounded),
        }

    def fingerprint(self) -> str:
        """sha256 of `describe`."""
        return fingerprint(self.describe())

    @cached_property
    def _image_projection(self) -> NDArray[np.float64]:
        width = image_features(Image.new("RGB", (8, 8))).size
        return counter_rng(self.seed, "image projection").standard_normal((width, self.dim))

    @cached_property
    def _text_projection(self) -> NDArray[np.float32]:
        return counter_rng(self.seed, "text projection").standard_normal((TEXT_BUCKETS, self.dim), dtype=np.float32)


def image_features(image: Image.Image) -> NDArray[np.float64]:
    """The groups of image features side by side, each centred and of unit norm."""
    small = image.convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX, reducing_gap=2.0)
    pixels = np.asarray(small, np.float64) / 255.0
    step = SIDE_PX // LAYOUT_PX
    thumbnail = pixels.reshape(LAYOUT_PX, step, LAYOUT_PX, step, 3).mean(axis=(1, 3))
    groups = [_unit(thumbnail.ravel() - thumbnail.mean()), _unit(_colours(pixels)), _unit(_edges(pixels.mean(axis=2)))]
    return np.concatenate(groups)


def text_features(text: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Buckets that the text's terms fall in, and their signed weights."""
    words = _WORD.findall(text.casefold())
    content = [word for word in words if word not in _FUNCTION_WORDS] or words
    terms = Counter(content)
    terms.update(f"{first} {second}" for first, second in pairwise(content))
    pieces = Counter(f"#{piece}" for word in content for piece in _pieces(word))
    buckets, weights = [], []
    for counts, share in ((terms, 1.0), (pieces, 0.4)):
        for term, count in counts.items():
            code = zlib.crc32(term.encode())
            buckets.append(code % TEXT_BUCKETS)
            weights.append(share * (1.0 + np.log(count)) * (1.0 if code >> 31 else -1.0))
    return np.array(buckets, np.int64), np.array(weights, np.float64)


def _pieces(word: str) -> list[str]:
    return [word[start : start + 4] for start in range(len(word) - 3)]


def _colours(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Square roots of colour shares (Hellinger), less those of an even spread: (4 * 4 * 4,)."""
    levels = np.minimum((pixels * COLOUR_LEVELS).astype(np.int64), COLOUR_LEVELS - 1)
    codes = (levels[..., 0] * COLOUR_LEVELS + levels[..., 1]) * COLOUR_LEVELS + levels[..., 2]
    counts = np.bincount(codes.ravel(), minlength=COLOUR_LEVELS**3)
    return np.asarray(np.sqrt(counts / counts.sum()) - COLOUR_LEVELS**-1.5, np.float64)


def _edges(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of edge strength by direction in each cell, less an even spread: (cells * 9,)."""
    down, right = np.gradient(grey)
    strength = np.hypot(down, right)
    turn = np.mod(np.arctan2(down, right), np.pi) / np.pi
    direction = np.minimum((turn * DIRECTIONS).astype(np.int64), DIRECTIONS - 1)
    cells = SIDE_PX // CELL_PX
    row, column = np.indices(grey.shape) // CELL_PX
    code = (row * cells + column) * DIRECTIONS + direction
    root = np.sqrt(np.bincount(code.ravel(), strength.ravel(), minlength=cells * cells * DIRECTIONS))
    return np.asarray(root - root.mean(), np.float64)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit length along the last axis; a zero vector becomes the even one."""
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    even = np.full_like(vectors, vectors.shape[-1] ** -0.5)
    return np.where(norm > 1e-12, vectors / np.maximum(norm, 1e-12), even)
