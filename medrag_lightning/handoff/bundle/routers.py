"""What tells the modality of a question's image in a bundle: an encoder, and the weights or sentences that the run's has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medrag_lightning.artifacts import write_manifest
from medrag_lightning.handoff.bundle.encoders import Spec, check_encoder, load_encoder, save_encoder
from medrag_lightning.handoff.bundle.layout import RETRIEVER
from medrag_lightning.interfaces import ModalityRouter, OpenImage, Retriever
from medrag_lightning.models.linear_router import LinearRouter
from medrag_lightning.models.prompt_router import PromptRouter
from medrag_lightning.records import Document


class BundledRouter(LinearRouter):
    """A linear router that has learnt already, whatever the documents; implements `interfaces.ModalityRouter`.

    Args:
        encoder: makes the vectors.
        path: where its weights lie.
    """

    def __init__(self, encoder: Retriever, path: Path) -> None:
        super().__init__(encoder)
        self.path = path

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Opens the weights."""
        self._open(self.path)

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Opens the weights."""
        self._open(self.path)


def check_router(router: Any) -> None:
    """ValueError for a kind of router that bundles do not know."""
    if not isinstance(router, LinearRouter | PromptRouter):
        raise ValueError(
            f"a bundle cannot hold a router of class {type(router).__name__}; it knows LinearRouter and PromptRouter: take one "
            "of them, or set RoutedSearch to route: given"
        )
    check_encoder(router.encoder)


def save_router(router: Any, bundle: Path, name: str) -> Spec:
    """Writes a checked router that is loaded below ``retriever/``; gives its entry in ``system.json``."""
    place = f"{name}_router"
    encoder = save_encoder(router.encoder, bundle, place)
    if isinstance(router, PromptRouter):
        return {"kind": "prompts", "encoder": encoder, "prompts": router.prompts, "temperature": router.temperature}
    assert isinstance(router, LinearRouter), "checked before"
    file = f"{RETRIEVER}/{place}.json"
    write_manifest(bundle / file, router.told)
    return {"kind": "linear", "encoder": encoder, "file": file}


def load_router(spec: Mapping[str, Any], bundle: Path, device: str) -> ModalityRouter:
    """The router of an entry in ``system.json``; it tells nothing before `load`."""
    encoder = load_encoder(spec["encoder"], bundle, device)
    if spec["kind"] == "prompts":
        return PromptRouter(encoder, {name: list(said) for name, said in spec["prompts"].items()}, spec["temperature"])
    return BundledRouter(encoder, bundle / spec["file"])
