"""A dual encoder with the weights of a contrastive run: what the next steps of a recipe search and embed with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor, nn

from medrag_lightning.interfaces import DualEncoder
from medrag_lightning.models.checkpoints import read_trained
from medrag_lightning.models.embedding import refuse_contradictions, weights_sha256

STAGE, PREFIX = "retriever_contrastive", "encoder."


class TrainedEncoder(nn.Module):
    """`encoder` with what a checkpoint of stage `retriever_contrastive` has trained; frozen. Loaded when first needed.

    Args:
        encoder: configured as in the run that wrote the checkpoint.
        checkpoint: the ``.ckpt`` file; tensors and plain JSON only are read from it.
    """

    def __init__(self, encoder: DualEncoder, checkpoint: str) -> None:
        super().__init__()
        if not isinstance(encoder, nn.Module):
            raise ValueError(f"{type(encoder).__name__} has no weights that a checkpoint could hold")
        self.encoder, self.checkpoint = encoder, checkpoint
        self._is_loaded = False

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return self._trained().dim

    @property
    def shared_space(self) -> bool:
        """True: that is what it was trained for."""
        return True

    def prepare(self, texts: Iterable[str]) -> None:
        """Loads the checkpoint, once; it brings its own tokenizer."""
        self._trained()

    def embed_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """(B, D) unit vectors."""
        return self._trained().embed_images(images)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(B, D) unit vectors."""
        return self._trained().embed_texts(texts)

    def image_inputs(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """Those of the encoder."""
        return self._trained().image_inputs(images)

    def text_inputs(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Those of the encoder."""
        return self._trained().text_inputs(texts)

    def image_vectors(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """float32 (B, D) unit vectors."""
        return self._trained().image_vectors(inputs)

    def text_vectors(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """float32 (B, D) unit vectors."""
        return self._trained().text_vectors(inputs)

    def image_tower(self) -> nn.Module:
        """A trainable copy of the trained image tower."""
        return self._trained().image_tower()

    def describe(self) -> dict[str, str]:
        """Those of the encoder with its trained weights."""
        return self._trained().describe()

    def fingerprint(self) -> str:
        """That of the encoder with its trained weights; where the checkpoint lies does not matter."""
        return self._trained().fingerprint()

    def settings(self) -> dict[str, Any]:
        """The encoder's settings, and the sha256 of its trained weights."""
        encoder = self._trained()
        return {"kind": "trained", "weights": weights_sha256(self.encoder), "encoder": encoder.settings()}

    def restore(self, settings: dict[str, Any]) -> None:
        """Loads the checkpoint; ValueError where other trained weights are meant."""
        refuse_contradictions(self.settings(), settings, "encoder")

    def train(self, mode: bool = True) -> TrainedEncoder:
        """Stays in evaluation mode: it is frozen."""
        return super().train(False)

    def _trained(self) -> DualEncoder:
        encoder: Any = self.encoder
        if not self._is_loaded:
            settings, state = read_trained(self.checkpoint, STAGE, PREFIX, "TrainedEncoder")
            encoder.restore(settings)
            trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
            missing, unknown = trained - set(state), set(state) - set(encoder.state_dict())
            if missing or unknown:
                raise ValueError(
                    f"{self.checkpoint} does not fit {type(encoder).__name__}: it lacks {len(missing)} trained weights "
                    f"{sorted(missing)[:3]} and holds {len(unknown)} unknown ones {sorted(unknown)[:3]}"
                )
            encoder.load_state_dict(state, strict=False)
            encoder.requires_grad_(False).eval()
            self._is_loaded = True
        return encoder  # type: ignore[no-any-return]
