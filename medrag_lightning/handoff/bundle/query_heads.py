"""Query heads of a bundle: what `models.headed_encoder.HeadedEncoder` asks with, without the checkpoints it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from torch import nn

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import DualEncoder
from medrag_lightning.models.embedding import embed, weights_sha256
from medrag_lightning.models.heads import ProjectionHead, TowerHead

BATCH = 64


class BundledHeads(nn.Module):
    """A frozen encoder that asks with trained heads; implements `interfaces.Retriever` and `interfaces.QueryEncoder`.

    Args:
        encoder: embeds documents, and queries of sides without a head.
        heads: by the side that is searched.
        mixes: weight of each head's vector in e(q).
    """

    def __init__(self, encoder: DualEncoder, heads: Mapping[str, nn.Module], mixes: Mapping[str, float]) -> None:
        super().__init__()
        self.encoder, self.mixes = encoder, dict(mixes)
        self.heads = nn.ModuleDict(heads).requires_grad_(False).eval()

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return self.encoder.dim

    @property
    def shared_space(self) -> bool:
        """Whether an image vector may be compared with a text vector."""
        return self.encoder.shared_space

    def embed_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """(B, D) unit vectors, by the frozen encoder."""
        return self.encoder.embed_images(images)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(B, D) unit vectors, by the frozen encoder."""
        return self.encoder.embed_texts(texts)

    def embed_queries(self, images: Sequence[Image], side: str) -> NDArray[np.float32]:
        """(B, D) e(q) for a search among ``image`` or ``text`` vectors; of length at most 1."""
        if side not in self.heads:
            return self.encoder.embed_images(images)
        head, mix = self.heads[side], self.mixes[side]

        def vectors(inputs: Mapping[str, Any]) -> Any:
            frozen_BD = self.encoder.image_vectors(inputs)
            return mix * head(inputs, frozen_BD) + (1 - mix) * frozen_BD

        return embed(self, images, BATCH, self.encoder.image_inputs, vectors, self.encoder.dim)

    def describe(self) -> dict[str, str]:
        """The parts of the frozen encoder's fingerprint."""
        return self.encoder.describe()

    def fingerprint(self) -> str:
        """The frozen encoder's: what documents' vectors depend on."""
        return self.encoder.fingerprint()

    def query_fingerprint(self) -> str:
        """sha256 over the heads."""
        return fingerprint([[side, self.mixes[side], weights_sha256(self.heads[side])] for side in sorted(self.heads)])


def make_bundled_head(encoder: DualEncoder, kind: str) -> nn.Module:
    """A head of a kind before its weights are loaded: ``tower`` or ``projection``."""
    return ProjectionHead(encoder.dim) if kind == "projection" else TowerHead(encoder.image_tower())
