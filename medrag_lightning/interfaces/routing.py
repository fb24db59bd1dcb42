"""What tells of which kind an image is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL.Image import Image

from medrag_lightning.interfaces.serving import OpenImage
from medrag_lightning.records import Document


@runtime_checkable
class ModalityRouter(Protocol):
    """Tells of what modality an image is, so that a question asks the search for images like its own."""

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Learns from the images of `documents`, whose modality is known, once; keeps what it learnt under `folder`."""
        ...

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Opens what `prepare` made; called in every process."""
        ...

    def modalities(self, images: Sequence[Image]) -> list[tuple[str, float]]:
        """The most probable modality of each image, and its probability."""
        ...

    def fingerprint(self) -> str:
        """sha256 over everything that the answers depend on."""
        ...
