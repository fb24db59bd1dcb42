"""Images whose modality is known: which of them a router learns from, and how often it is right about the others."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.artifacts import counter_rng
from medrag_lightning.interfaces import OpenImage, Retriever
from medrag_lightning.records import Document

logger = logging.getLogger(__name__)
AT_ONCE = 64
TELL_EVERY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """N images drawn from a corpus.

    Attributes:
        documents: with the images; their modality is the label.
        names: the C different modalities, sorted.
        label_N: place of each image's modality in `names`.
        group_N: what must not be torn apart: patient, study or image.
    """

    documents: tuple[Document, ...]
    names: tuple[str, ...]
    label_N: NDArray[np.int64]
    group_N: tuple[str, ...]

    def identity(self) -> list[list[str | int | None]]:
        """What is learnt from, for a fingerprint; of an image's place only the file name counts."""
        images = [document.image for document in self.documents]
        places = [[None] if i is None else [Path(i.path).name, i.array, i.index] for i in images]
        return [[d.id, d.modality, *place] for d, place in zip(self.documents, places, strict=True)]

    def held_out(self, share: float, seed: int) -> NDArray[np.bool_]:
        """(N,) which images are only judged by: whole groups, drawn."""
        drawn = {group: counter_rng(seed, "router held out", group).random() < share for group in set(self.group_N)}
        return np.array([drawn[group] for group in self.group_N], np.bool_)


def draw_labelled(documents: Sequence[Document], most_per_modality: int, seed: int) -> LabelledImages:
    """The documents with an image and a modality, up to so many of each modality, in corpus order.

    Raises:
        ValueError: there are images of fewer than two modalities.
    """
    of: dict[str, list[Document]] = defaultdict(list)
    for document in documents:
        if document.image is not None and document.modality:
            of[document.modality].append(document)
    if len(of) < 2:
        told = ", ".join(f"{name} ({len(found)})" for name, found in of.items()) or "none"
        raise ValueError(f"a router of modalities needs images of two modalities or more; the corpus has {told}")
    chosen = {
        document.id
        for found in of.values()
        for document in sorted(found, key=lambda d: (counter_rng(seed, "router", d.id).random(), d.id))[:most_per_modality]
    }
    drawn = tuple(document for document in documents if document.id in chosen)
    names = tuple(sorted(of))
    labels = [names.index(document.modality or "") for document in drawn]
    return LabelledImages(drawn, names, np.array(labels, np.int64), tuple(map(_group, drawn)))


def embed_labelled(images: LabelledImages, encoder: Retriever, open_image: OpenImage) -> NDArray[np.float32]:
    """(N, D) vectors of the images; tells the log how far it is."""
    made = [np.zeros((0, encoder.dim), np.float32)]
    start = last = time.monotonic()
    count = len(images.documents)
    for place in range(0, count, AT_ONCE):
        refs = [document.image for document in images.documents[place : place + AT_ONCE]]
        made.append(encoder.embed_images([open_image(ref) for ref in refs if ref is not None]))
        if (now := time.monotonic()) - last > TELL_EVERY_SECONDS:
            left_seconds = (now - start) / (place + AT_ONCE) * (count - place - AT_ONCE)
            logger.info("images for the router: %d of %d, %.0f s left", place + AT_ONCE, count, max(0.0, left_seconds))
            last = now
    return np.concatenate(made)


def accuracy_of(told_N: NDArray[np.int64], images: LabelledImages, judged_N: NDArray[np.bool_]) -> dict[str, Any]:
    """How often `told_N` is right on the judged images: in all, by modality, and how often the commonest would be."""
    label_N, right_N = images.label_N[judged_N], (told_N == images.label_N)[judged_N]
    counts = Counter(label_N.tolist())
    if not counts:
        return {"images": 0, "accuracy": None, "commonest": None, "by_modality": {}}
    by_modality = {images.names[label]: round(float(right_N[label_N == label].mean()), 4) for label in sorted(counts)}
    commonest = max(counts.values()) / len(label_N)
    accuracy = round(float(right_N.mean()), 4)
    return {"images": len(label_N), "accuracy": accuracy, "commonest": round(commonest, 4), "by_modality": by_modality}


def tell_accuracy(told: dict[str, Any], what: str) -> None:
    """Says it in the log; warns where nothing could be judged, or the router is no better than the commonest modality."""
    if not told["images"]:
        logger.warning("%s: no image could be held out, so its accuracy is not known", what)
        return
    by_modality = ", ".join(f"{name} {share:.3f}" for name, share in told["by_modality"].items())
    right = f"{told['accuracy']:.3f} of {told['images']} held-out images are told right"
    say = logger.info if told["accuracy"] > told["commonest"] else logger.warning
    say("%s: %s (always the commonest modality: %.3f); by modality: %s", what, right, told["commonest"], by_modality)


def _group(document: Document) -> str:
    """The patient, the study, or the image."""
    for name, value in (("patient", document.patient_id), ("study", document.study_id)):
        if value is not None:
            return f"{document.source} {name} {value}"
    return f"image {document.image}"
