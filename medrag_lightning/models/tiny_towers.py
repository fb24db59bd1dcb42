"""A trainable dual encoder that needs no download and learns from a thousand pairs on one CPU core in seconds.

Images and texts are first turned into the hand-made features of `tiny_dual_encoder`; what is trained on top is small. It
starts as that encoder does: images that look alike and texts that share words are near each other.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from medrag_lightning.artifacts import counter_rng, fingerprint
from medrag_lightning.models.embedding import embed, refuse_contradictions, weights_sha256
from medrag_lightning.models.tiny_dual_encoder import TEXT_BUCKETS, image_features, text_features

IMAGE_WIDTH = image_features(Image.new("RGB", (8, 8))).size
BATCH = 256


class TinyTowers(nn.Module):
    """Two small towers into one space; implements `interfaces.DualEncoder`.

    Image tower: a linear map of the image features, first a Gaussian projection, which keeps their cosines
    (Johnson-Lindenstrauss). Text tower: the weighted sum of a vector for each hashed word, word pair and 4-letter piece, at
    first Gaussian too. Each is then `x + MLP(x)`, with a last layer that starts at zero, and brought to unit length.

    Args:
        dim: width D of the vectors.
        hidden: width of the MLP.
        dropout: share of image features, and of terms of a text, that training leaves out; and of hidden units.
        seed: of the first weights.
    """

    def __init__(self, dim: int = 256, hidden: int = 256, dropout: float = 0.2, seed: int = 0) -> None:
        super().__init__()
        if dim < 8 or hidden < 1 or not 0 <= dropout < 1:
            raise ValueError(f"need dim >= 8, hidden >= 1 and 0 <= dropout < 1, got {dim}, {hidden}, {dropout}")
        self._dim, self.hidden, self.dropout, self.seed = dim, hidden, dropout, seed
        self.image: nn.Module = ImageTower(dim, hidden, dropout)
        self.text: nn.Module = TextTower(dim, hidden, dropout)
        self._reset()

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return self._dim

    @property
    def shared_space(self) -> bool:
        """True; but before training an image and a text are near each other by chance only."""
        return True

    def prepare(self, texts: Iterable[str]) -> None:
        """Nothing: the first weights depend on the seed alone."""

    def image_inputs(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """`features` (B, 400)."""
        made = np.zeros((len(images), IMAGE_WIDTH), np.float32)
        for place, image in enumerate(images):
            made[place] = image_features(image)
        return {"features": torch.from_numpy(made)}

    def text_inputs(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`buckets` and `weights` (B, terms of the longest text), padded with weight 0."""
        found = [text_features(text) for text in texts]
        longest = max((len(buckets) for buckets, _ in found), default=1) or 1
        buckets, weights = np.zeros((len(texts), longest), np.int64), np.zeros((len(texts), longest), np.float32)
        for place, (terms, values) in enumerate(found):
            buckets[place, : len(terms)], weights[place, : len(terms)] = terms, values
        weights[:, 0] += np.abs(weights).sum(axis=1) == 0  # a text without a word still gets a vector, the same for all
        return {"buckets": torch.from_numpy(buckets), "weights": torch.from_numpy(weights)}

    def image_vectors(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """float32 (B, D) unit vectors; differentiable."""
        vectors: Tensor = self.image(inputs)
        return vectors

    def text_vectors(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """float32 (B, D) unit vectors; differentiable."""
        vectors: Tensor = self.text(inputs)
        return vectors

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """(B, D) unit vectors of RGB or grey images of any size."""
        return embed(self, images, BATCH, self.image_inputs, self.image_vectors, self.dim)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(B, D) unit vectors."""
        return embed(self, texts, BATCH, self.text_inputs, self.text_vectors, self.dim)

    def image_tower(self) -> nn.Module:
        """A copy of the image tower, all of it trainable."""
        return copy.deepcopy(self.image).requires_grad_(True)

    def describe(self) -> dict[str, str]:
        """sha256 of the weights, and of the features of fixed probes, which stand for the code that makes them."""
        ramp = np.add.outer(np.arange(48), np.arange(64))[..., None] * np.array([2, 3, 5]) % 256
        buckets, weights = text_features("Right lower-lobe opacity")
        values = np.concatenate([image_features(Image.fromarray(ramp.astype(np.uint8))), weights])
        rounded = np.round(values * 1e3).astype(np.int32)
        return {"name": "TinyTowers", "weights": weights_sha256(self), "transform": fingerprint(rounded, buckets)}

    def fingerprint(self) -> str:
        """sha256 of `describe`."""
        return fingerprint(self.describe())

    def settings(self) -> dict[str, Any]:
        """Shape and seed."""
        shape = {"dim": self.dim, "hidden": self.hidden, "dropout": self.dropout, "seed": self.seed}
        return {"kind": "tiny_towers", **shape}

    def restore(self, settings: dict[str, Any]) -> None:
        """The weights of the seed; ValueError where shape or seed differ."""
        refuse_contradictions(self.settings(), settings, "encoder")
        self._reset()

    @torch.no_grad()
    def _reset(self) -> None:
        for name, weight in self.named_parameters():
            rng = counter_rng(self.seed, "weights", name)
            first = np.zeros(weight.shape, np.float32)
            if name.endswith(("project.weight", "table.weight")):
                first = rng.standard_normal(weight.shape, dtype=np.float32) * np.float32(self.dim**-0.5)
            elif name.endswith("widen.weight"):
                first = rng.standard_normal(weight.shape, dtype=np.float32) * np.float32((2 / weight.shape[1]) ** 0.5)
            weight.copy_(torch.from_numpy(first))


class ImageTower(nn.Module):
    """`features` (B, 400) to float32 unit vectors (B, D)."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.project = nn.Linear(IMAGE_WIDTH, dim, bias=False)
        self.residual = Residual(dim, hidden, dropout)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Unit vectors."""
        features = inputs["features"].to(self.project.weight)
        vectors: Tensor = self.residual(self.project(self.drop(features)))
        return vectors


class TextTower(nn.Module):
    """`buckets` and `weights` (B, terms) to float32 unit vectors (B, D)."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.table = nn.Embedding(TEXT_BUCKETS, dim)
        self.residual = Residual(dim, hidden, dropout)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Unit vectors."""
        table = self.table.weight
        buckets, weights = inputs["buckets"].to(table.device), self.drop(inputs["weights"].to(table))
        weights = functional.normalize(weights, dim=-1)
        summed = functional.embedding_bag(buckets, table, per_sample_weights=weights, mode="sum")
        vectors: Tensor = self.residual(summed)
        return vectors


class Residual(nn.Module):
    """`x + narrow(gelu(widen(norm(x))))` at unit length; `narrow` starts at zero."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.widen, self.drop, self.narrow = nn.Linear(dim, hidden), nn.Dropout(dropout), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Unit vectors, float32 whatever the precision of the run."""
        scaled = functional.layer_norm(x, (self.widen.in_features,))
        change = self.narrow(self.drop(functional.gelu(self.widen(scaled))))
        return functional.normalize(x.float() + change.float(), dim=-1)
