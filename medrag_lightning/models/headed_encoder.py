"""An encoder that asks with the heads of stage `retriever_kl`, around frozen passages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from torch import nn

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import DualEncoder
from medrag_lightning.models.embedding import evaluating, weights_sha256
from medrag_lightning.models.heads import HeadLora, QueryHeads, Side, device_of, read_heads

BATCH = 64


class HeadedEncoder(nn.Module):
    """A dual encoder that asks with distilled heads: image queries search texts by one, images by the other.

    Documents are embedded by the frozen encoder, whose fingerprint this has, so the evidence store stays valid. Implements
    `interfaces.Retriever` and `interfaces.QueryEncoder`. Frozen; loaded when first needed.

    Args:
        encoder: the frozen encoder that the heads were trained around.
        text_head, image_head: the ``.ckpt`` of the run that trained the head; null: that side is asked with the encoder's own
            vectors. One checkpoint may serve both.
    """

    def __init__(self, encoder: DualEncoder, text_head: str | None = None, image_head: str | None = None) -> None:
        super().__init__()
        if text_head is None and image_head is None:
            raise ValueError("HeadedEncoder has no head: give text_head, image_head or both, or use the encoder alone")
        self.encoder = encoder
        self.checkpoints: dict[Side, str | None] = {"text": text_head, "image": image_head}
        self.heads = nn.ModuleDict()

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return self._loaded().dim

    @property
    def shared_space(self) -> bool:
        """Whether an image vector may be compared with a text vector."""
        return self._loaded().shared_space

    def embed_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """(B, D) unit vectors of documents' images, by the frozen encoder."""
        return self._loaded().embed_images(images)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(B, D) unit vectors, by the frozen encoder."""
        return self._loaded().embed_texts(texts)

    def embed_queries(self, images: Sequence[Image], side: str) -> NDArray[np.float32]:
        """(B, D) e(q) for a search among ``image`` or ``text`` vectors; of length at most 1."""
        encoder = self._loaded()
        if side not in self.checkpoints:
            raise ValueError(f"side {side!r} is not one of image, text")
        if side not in self.heads:
            return encoder.embed_images(images)
        heads: Any = self.heads[side]
        made = [np.zeros((0, encoder.dim), np.float32)]
        with evaluating(self):
            for start in range(0, len(images), BATCH):
                inputs = encoder.image_inputs(images[start : start + BATCH])
                made.append(heads.query_vectors(side, inputs, heads.frozen_vectors(inputs)).cpu().numpy())
        return np.concatenate(made)

    def describe(self) -> dict[str, str]:
        """The parts of the frozen encoder's fingerprint."""
        return self._loaded().describe()

    def fingerprint(self) -> str:
        """The frozen encoder's: what documents' vectors depend on."""
        return self._loaded().fingerprint()

    def query_fingerprint(self) -> str:
        """sha256 over the heads: sides, weights, kind and mix."""
        self._loaded()
        told = []
        for side in sorted(self.heads):
            heads: Any = self.heads[side]
            told.append([side, heads.kind, heads.query_mix, heads.share, weights_sha256(heads.towers[side])])
        return fingerprint(told)

    def train(self, mode: bool = True) -> HeadedEncoder:
        """Stays in evaluation mode: it is frozen."""
        return super().train(False)

    def _loaded(self) -> DualEncoder:
        for side, path in self.checkpoints.items():
            if path is None or side in self.heads:
                continue
            description, weights = read_heads(path)
            if side not in description["sides"]:
                raise ValueError(f"{path} trained the heads {description['sides']}, not {side!r}; give it as another head")
            own = {"kind": description["kind"], "query_mix": description["query_mix"]}
            lora = HeadLora(**description["lora"]) if description["kind"] == "lora" else None
            heads = QueryHeads(self.encoder, [side], mode="train", lora=lora, **own)  # but `train` below never lets them
            heads.restore({**description, "sides": [side]})
            heads.start_from({**description, "sides": [side]}, weights, path)
            heads.ask_with_share()
            self.heads[side] = heads.requires_grad_(False).to(device_of(self.encoder)).eval()
        return self.encoder
