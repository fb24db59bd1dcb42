"""Tells the modality of an image by logistic regression on an encoder's vectors (MMed-RAG routes with such a classifier)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch.nn import functional

from medrag_lightning.artifacts import fingerprint, read_manifest, write_manifest
from medrag_lightning.interfaces import OpenImage, Retriever
from medrag_lightning.models.labelled_images import LabelledImages, accuracy_of, draw_labelled, embed_labelled, tell_accuracy
from medrag_lightning.records import Document

logger = logging.getLogger(__name__)
SCHEMA = 1
STEPS = 200  # of L-BFGS, at most


class LinearRouter:
    """Multinomial logistic regression on image vectors; implements `interfaces.ModalityRouter`.

    It learns from the corpus' own images, whose modality is known, in `prepare`, and lies beside the store as
    ``router-ID.json`` (ID: of encoder, images and settings; another choice of these is learnt anew). A share of the patients is
    held out first, to tell its accuracy; what is kept has then learnt from all. Images changed under the same names are not
    noticed: delete the file.

    Args:
        encoder: makes the vectors: that of one of the parts, or `models.tiny_dual_encoder.TinyDualEncoder`.
        most_per_modality: images of each modality that it learns from; drawn.
        held_out: share of the patients (studies, images) that its accuracy is told on.
        penalty: of the squared weights, against overfitting.
        seed: of both draws.
    """

    def __init__(
        self, encoder: Retriever, most_per_modality: int = 2000, held_out: float = 0.2, penalty: float = 1e-3, seed: int = 0
    ) -> None:
        if most_per_modality < 1 or not 0 < held_out < 1 or not penalty > 0:
            raise ValueError(
                "LinearRouter needs most_per_modality >= 1, 0 < held_out < 1 and penalty > 0, got "
                f"{most_per_modality}, {held_out}, {penalty}"
            )
        self.encoder, self.most_per_modality, self.held_out = encoder, most_per_modality, held_out
        self.penalty, self.seed = penalty, seed
        self.told: dict[str, Any] = {}

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Learns from the images of `documents`, unless their router is there."""
        images = draw_labelled(documents, self.most_per_modality, self.seed)
        path = self._file(images, folder)
        if not path.is_file():
            vector_ND = embed_labelled(images, self.encoder, open_image)
            judged_N = images.held_out(self.held_out, self.seed)
            first = _fit(vector_ND[~judged_N], images.label_N[~judged_N], len(images.names), self.penalty)
            told = accuracy_of(_logits(vector_ND, first).argmax(axis=1), images, judged_N)
            weight_CF = _fit(vector_ND, images.label_N, len(images.names), self.penalty)
            learnt = {"images": len(images.documents), "weights": weight_CF.tolist(), "held_out": told}
            write_manifest(path, {"schema": SCHEMA, "modalities": list(images.names), "penalty": self.penalty, **learnt})
        self._open(path)
        tell_accuracy(self.told["held_out"], "router of modalities")

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Opens what `prepare` has learnt; ValueError where it is not there."""
        path = self._file(draw_labelled(documents, self.most_per_modality, self.seed), folder)
        if not path.is_file():
            raise ValueError(f"{path} is not there: the router has not learnt from this corpus with this encoder; prepare it")
        self._open(path)

    def modalities(self, images: Sequence[Image]) -> list[tuple[str, float]]:
        """The most probable modality of each image, and its probability."""
        if not self.told:
            raise RuntimeError("LinearRouter knows no modalities before load()")
        if not images:
            return []
        logit_NC = _logits(self.encoder.embed_images(images), np.array(self.told["weights"], np.float64))
        p_NC = torch.from_numpy(logit_NC).softmax(dim=1).numpy()
        best_N = p_NC.argmax(axis=1)
        return [(self.told["modalities"][best], float(p_C[best])) for best, p_C in zip(best_N, p_NC, strict=True)]

    def fingerprint(self) -> str:
        """Encoder and weights; RuntimeError before `load`."""
        if not self.told:
            raise RuntimeError("LinearRouter has no fingerprint before load()")
        return fingerprint("linear router", self.encoder.fingerprint(), self.told["modalities"], self.told["weights"])

    def _file(self, images: LabelledImages, folder: Path) -> Path:
        settings = [self.most_per_modality, self.held_out, self.penalty, self.seed]
        key = fingerprint("linear router", SCHEMA, self.encoder.fingerprint(), settings, images.identity())
        return folder / f"router-{key[:12]}.json"

    def _open(self, path: Path) -> None:
        remedy = "delete it, and it is learnt anew"
        told = read_manifest(path, remedy)
        if told.get("schema") != SCHEMA or np.shape(told.get("weights") or []) != (
            len(told["modalities"]),
            self.encoder.dim + 1,
        ):
            raise ValueError(f"{path} holds no router of this version and encoder; {remedy}")
        self.told = told


def _fit(vector_ND: NDArray[np.float32], label_N: NDArray[np.int64], classes: int, penalty: float) -> NDArray[np.float64]:
    """(C, D + 1) weights and, last, intercepts: least mean cross-entropy + penalty * sum of squared weights / 2.

    Vectors are multiplied by sqrt(D), so that a number of a unit vector is of size 1 and `penalty` means the same for any D.
    """
    if not len(vector_ND):
        return np.zeros((classes, vector_ND.shape[1] + 1))
    x_ND = torch.from_numpy(vector_ND.astype(np.float64)) * vector_ND.shape[1] ** 0.5
    label = torch.from_numpy(label_N)
    weight_CF = torch.zeros(classes, vector_ND.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight_CF], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logit_NC = x_ND @ weight_CF[:, :-1].T + weight_CF[:, -1]
        loss = functional.cross_entropy(logit_NC, label) + penalty * weight_CF[:, :-1].square().sum() / 2
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight_CF.detach().numpy()


def _logits(vector_ND: NDArray[np.float32], weight_CF: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, C) logits."""
    scaled_ND = vector_ND.astype(np.float64) * vector_ND.shape[1] ** 0.5
    logit_NC: NDArray[np.float64] = scaled_ND @ weight_CF[:, :-1].T + weight_CF[:, -1]
    return logit_NC
