"""Pairs on their way through a contrastive stage: to inputs, to vectors, gathered from all processes, ranked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from medrag_lightning.batches import Pair, PairBatch
from medrag_lightning.interfaces import DualEncoder
from medrag_lightning.losses import factual_twins
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
        facts = [pair.facts for pair in pairs if pair.facts is not None]
        assert len(facts) in (0, len(pairs)), "all pairs of a corpus have facts, or none"
        numbers = [one.number_F for one in facts] or np.zeros((len(pairs), 0), np.int64)
        return PairBatch(
            tuple(pair.document for pair in pairs),
            self.encoder.image_inputs([pair.image for pair in pairs]),
            self.encoder.text_inputs([pair.document.text for pair in pairs]),
            torch.tensor(keys, dtype=torch.int64).reshape(len(pairs), 2),
            torch.from_numpy(np.stack(list(numbers))),
            facts[0].threshold if facts else None,
            any(one.train for one in facts),
        )


@dataclass(frozen=True, slots=True)
class PairVectors:
    """N pairs as an encoder sees them, and what they state where that is known (`batches.StatedFacts`)."""

    ids: tuple[str, ...]
    cluster_N: tuple[str, ...]
    image_ND: NDArray[np.float32]
    text_ND: NDArray[np.float32]
    key_N2: NDArray[np.int64]
    fact_NF: NDArray[np.int64]
    fact_f1: float | None = None

    @classmethod
    def of(cls, batch: PairBatch, encoder: DualEncoder) -> PairVectors:
        """The vectors of a batch."""
        with torch.no_grad():
            image, text = encoder.image_vectors(batch.image), encoder.text_vectors(batch.text)
        keys = batch.key_B2.cpu().numpy()
        clusters = tuple(_cluster(document, int(key)) for document, key in zip(batch.documents, keys[:, 0], strict=True))
        vectors = image.cpu().numpy(), text.cpu().numpy()
        return cls(tuple(d.id for d in batch.documents), clusters, *vectors, keys, batch.fact_BF.cpu().numpy(), batch.fact_f1)

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
        names = ("image_ND", "text_ND", "key_N2", "fact_NF")
        image_ND, text_ND, key_N2, fact_NF = (np.concatenate([getattr(part, name) for part in every])[order] for name in names)
        ordered = tuple(ids[i] for i in order), tuple(clusters[i] for i in order)
        return cls(*ordered, image_ND, text_ND, key_N2, fact_NF, every[0].fact_f1)

    def ranks(self) -> PairRanks:
        """How well they find each other."""
        return rank_pairs(self.image_ND, self.text_ND, self.key_N2, self.cluster_N)

    def factual_ranks(self) -> PairRanks | None:
        """The same, where a pair that states nearly the same is a right answer as well; None where nobody looked for facts."""
        if (least := self.fact_f1) is None:
            return None
        fact_NF = torch.from_numpy(self.fact_NF)

        def alike(rows: slice) -> NDArray[np.bool_]:
            return np.asarray(factual_twins(fact_NF[rows], fact_NF, least).numpy(), np.bool_)

        return rank_pairs(self.image_ND, self.text_ND, self.key_N2, self.cluster_N, alike)


def _cluster(document: Document, image_key: int) -> str:
    """What the bootstrap draws together: the patient, or the study, or the image."""
    for name, value in (("patient", document.patient_id), ("study", document.study_id)):
        if value is not None:
            return f"{document.source} {name} {value}"
    return f"image {image_key}"
