"""Tells the modality of an image by the words that an encoder finds nearest to it; nothing is learnt (CLIP, zero-shot)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from medrag_lightning.artifacts import fingerprint, read_manifest, write_manifest
from medrag_lightning.interfaces import OpenImage, Retriever
from medrag_lightning.models.labelled_images import accuracy_of, draw_labelled, embed_labelled, tell_accuracy
from medrag_lightning.records import Document

DEFAULT = ("{}", "a {} image", "{} of a patient")
JUDGED_BY = 200  # images of each modality


class PromptRouter:
    """The modality whose prompts an image is nearest to; implements `interfaces.ModalityRouter`.

    Its accuracy on the corpus' images is measured once, and kept beside the store as ``router-ID.json``.

    Args:
        encoder: an image-text encoder with one space for both.
        prompts: sentences about each modality, whose vectors are averaged; ``{X-ray: [a radiograph, an x-ray image]}``. A
            modality that is not named has the sentences of the name itself. Null: all have these.
        temperature: divides the cosines before they become probabilities; CLIP has learnt 0.01.
    """

    def __init__(self, encoder: Retriever, prompts: dict[str, list[str]] | None = None, temperature: float = 0.01) -> None:
        if not encoder.shared_space:
            raise ValueError(f"PromptRouter: {type(encoder).__name__} cannot compare images with texts; use LinearRouter")
        if empty := [name for name, said in (prompts or {}).items() if not said]:
            raise ValueError(f"PromptRouter: prompts.{empty[0]} is empty; leave it out for the sentences of the name itself")
        if not temperature > 0:
            raise ValueError(f"PromptRouter: temperature must be positive, got {temperature}")
        self.encoder, self.prompts, self.temperature = encoder, dict(prompts or {}), temperature
        self.names: tuple[str, ...] = ()
        self._text_CD: NDArray[np.float32] = np.zeros((0, 0), np.float32)

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Takes the names of the documents' modalities, and measures on their images how often it is right."""
        self.load(documents, open_image, folder)
        images = draw_labelled(documents, JUDGED_BY, 0)
        path = folder / f"router-{fingerprint(self.fingerprint(), images.identity())[:12]}.json"
        if not path.is_file():
            logit_NC = embed_labelled(images, self.encoder, open_image) @ self._text_CD.T
            every_N = np.ones(len(images.documents), np.bool_)
            told = accuracy_of(logit_NC.argmax(axis=1), images, every_N)
            write_manifest(path, {"modalities": list(self.names), "prompts": self._said(), "held_out": told})
        tell_accuracy(read_manifest(path, "delete it, and it is measured anew")["held_out"], "router of modalities by prompts")

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Takes the names of the documents' modalities; ValueError where `prompts` names another."""
        self.names = draw_labelled(documents, JUDGED_BY, 0).names
        if unknown := sorted(set(self.prompts) - set(self.names)):
            known = ", ".join(self.names)
            raise ValueError(f"PromptRouter: prompts.{unknown[0]} would be ignored: the modalities are {known}")
        means = [self.encoder.embed_texts(said).mean(axis=0) for said in self._said().values()]
        self._text_CD = np.stack([mean / max(float(np.linalg.norm(mean)), 1e-12) for mean in means]).astype(np.float32)

    def modalities(self, images: Sequence[Image]) -> list[tuple[str, float]]:
        """The modality whose prompts are nearest to each image, and its probability."""
        if not self.names:
            raise RuntimeError("PromptRouter knows no modalities before load()")
        if not images:
            return []
        logit_NC = (self.encoder.embed_images(images) @ self._text_CD.T).astype(np.float64) / self.temperature
        p_NC = np.exp(logit_NC - logit_NC.max(axis=1, keepdims=True))
        p_NC /= p_NC.sum(axis=1, keepdims=True)
        return [(self.names[place], float(p_C[place])) for place, p_C in zip(p_NC.argmax(axis=1), p_NC, strict=True)]

    def fingerprint(self) -> str:
        """Encoder, prompts and temperature."""
        return fingerprint("prompt router", self.encoder.fingerprint(), self._said(), self.temperature)

    def _said(self) -> dict[str, list[str]]:
        return {name: self.prompts.get(name) or [form.format(name) for form in DEFAULT] for name in self.names}
