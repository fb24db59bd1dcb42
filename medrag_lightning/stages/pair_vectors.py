"""Pairs on their way through a contrastive stage: to inputs, to vectors, gathered from all processes, ranked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from medrag_lightning.batches import Pair, PairBatch
from medrag_lightning.interfaces import DualEncoder
from medrag_lightning.metrics import PairRanks, rank_pairs
from medrag_lightning.records import Document

KEY_DIGITS = 15  # hexadecimal digits of a sha256 that fit an int64


class PairCollator:
    """Pairs to the inputs of an encoder; runs in loader workers."""

    def __init__(self, encoder: DualEncoder) -> None:
        self.encoder = encoder

    def __call__(self, pairs: Sequence[Pair]) -> PairBatch:
        """One batch."""
        keys = [[int(key[:KEY_DIGITS], 16) for key in (pair.image_key, pair.text_key)] for pair in pairs]
        return PairBatch(
            tuple(pair.document for pair in pairs),
            self.encoder.image_inputs([pair.image for pair in pairs]),
            self.encoder.text_inputs([pair.document.text for pair in pairs]),
            torch.tensor(keys, dtype=torch.int64).reshape(len(pairs), 2),
        )


@dataclass(frozen=True, slots=True)
class PairVectors:
    """N pairs as an encoder sees them."""

    ids: tuple[str, ...]
    cluster_N: tuple[str, ...]
    image_ND: NDArray[np.float32]
    text_ND: NDArray[np.float32]
    key_N2: NDArray[np.int64]

    @classmethod
    def of(cls, batch: PairBatch, encoder: DualEncoder) -> PairVectors:
        """The vectors of a batch."""
        with torch.no_grad():
            image, text = encoder.image_vectors(batch.image), encoder.text_vectors(batch.text)
        keys = batch.key_B2.cpu().numpy()
        clusters = tuple(_cluster(document, int(key)) for document, key in zip(batch.documents, keys[:, 0], strict=True))
        return cls(tuple(d.id for d in batch.documents), clusters, image.cpu().numpy(), text.cpu().numpy(), keys)

    @classmethod
    def gathered(cls, parts: Sequence[PairVectors], processes: int) -> PairVectors:
        """Those of all processes in order of id, so that the order of batches and processes does not show."""
        gathered: list[Sequence[PairVectors]] = [parts]
        if processes > 1:
            gathered = [[] for _ in range(processes)]
            torch.distributed.all_gather_object(gathered, list(parts))
        every = [part for of_process in gathered for part in of_process]
        ids = [name for part in every for name in part.ids]
        order = sorted(range(len(ids)), key=ids.__getitem__)
        clusters = [cluster for part in every for cluster in part.cluster_N]
        arrays = (np.concatenate([getattr(part, name) for part in every])[order] for name in ("image_ND", "text_ND", "key_N2"))
        return cls(tuple(ids[i] for i in order), tuple(clusters[i] for i in order), *arrays)

    def ranks(self) -> PairRanks:
        """How well they find each other."""
        return rank_pairs(self.image_ND, self.text_ND, self.key_N2, self.cluster_N)


def _cluster(document: Document, image_key: int) -> str:
    """What the bootstrap draws together: the patient, or the study, or the image."""
    for name, value in (("patient", document.patient_id), ("study", document.study_id)):
        if value is not None:
            return f"{document.source} {name} {value}"
    return f"image {image_key}"
