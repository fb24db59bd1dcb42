"""What retrievers take and give: items to embed, image-text pairs, and pools of scored candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.batches.reading import Example
from medrag_lightning.records import Document, Query


@dataclass(frozen=True, slots=True)
class EmbedItem:
    """One document or query to embed: its number in the corpus, and its open image and text (either may be missing)."""

    index: int
    text: str
    image: Image | None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EmbedItem:
        """Itself: the encoder makes tensors of it."""
        return self


@dataclass(frozen=True, slots=True)
class StatedFacts:
    """What the text of a pair states, where pairs that state nearly the same are positives of each other (FactMM-RAG).

    Attributes:
        number_F: int64 numbers of its facts, -1 behind them; F is the same for all pairs of a corpus.
        threshold: least F1 of two pairs' facts that makes them positives.
        train: whether they are so in training, too, and not only in what is reported.
    """

    number_F: NDArray[np.int64]
    threshold: float
    train: bool = True


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its report, to train a retriever on. Pairs with an equal `text_key` or `image_key` are duplicates.

    `text_key` is the `fingerprint` of the text in lower case with single spaces, `image_key` the image's `pixel_sha256`.
    """

    document: Document
    image: Image
    text_key: str
    image_key: str
    facts: StatedFacts | None = None


@dataclass(frozen=True, slots=True)
class PairBatch:
    """B pairs as an encoder's inputs.

    Attributes:
        documents: where they come from.
        image, text: what `DualEncoder.image_inputs` and `.text_inputs` gave.
        key_B2: int64 image key and text key of each pair; equal keys mark duplicates.
        fact_BF: int64 numbers of the facts that each text states (`StatedFacts`); F is 0 where nobody looked for facts.
        fact_f1: least F1 of facts that makes two pairs positives of each other; None where nobody looked for facts.
        facts_train: whether they are positives in training, too.
    """

    documents: tuple[Document, ...]
    image: Mapping[str, Tensor]
    text: Mapping[str, Tensor]
    key_B2: Tensor
    fact_BF: Tensor
    fact_f1: float | None = None
    facts_train: bool = False

    def __len__(self) -> int:
        return len(self.documents)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PairBatch:
        """A copy on `device`."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PairBatch:
        """A copy in page-locked memory."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> PairBatch:
        image, text = ({name: change(value) for name, value in side.items()} for side in (self.image, self.text))
        return replace(self, image=image, text=text, key_B2=change(self.key_B2), fact_BF=change(self.fact_BF))


@dataclass(frozen=True, slots=True)
class CandidatePool:
    """The K candidates of one query in one channel, with their vectors and what the frozen reader says under each.

    Attributes:
        ids: document ids, best first by the retriever that found them.
        passage_KD: float32 vectors of the candidates on the searched side.
        logp_KC: float32 log-probability of each answer, summed over its tokens (`records.Score`); None with a live reader.
        token_count_C: tokens of each answer.
        gold: position of the gold answer.
        passages: the candidates' open images and texts, for towers that train; empty where the vectors are enough.
    """

    ids: tuple[str, ...]
    passage_KD: NDArray[np.float32]
    logp_KC: NDArray[np.float32] | None
    token_count_C: NDArray[np.int64]
    gold: int
    passages: tuple[EmbedItem, ...] = ()


@dataclass(frozen=True, slots=True)
class DistillExample:
    """One query with a pool of candidates for each head (`image`, `text`: the side that the head searches).

    `readings[side][k]` is the example that a live reader scores for candidate k; empty where a score table was read.
    """

    query: Query
    image: Image
    pools: Mapping[str, CandidatePool]
    readings: Mapping[str, tuple[Example, ...]] = field(default_factory=dict)


def pixel_sha256(image: Image) -> str:
    """sha256 of the RGB pixels and their shape: equal for one picture under two names or in two lossless formats."""
    return fingerprint(np.asarray(image.convert("RGB")))


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of some items, as `predict` of the embedding stage returns them; an item may lack one side.

    Attributes:
        image_index, text_index: numbers of the items that have an image, and of those that have a text, in row order.
        image_ND, text_ND: their float32 unit vectors; row i belongs to `image_index[i]`, `text_index[i]`.
        image_sha256: `pixel_sha256` of each image.
        text_sha256: `fingerprint` of each text, to tell vectors of another corpus.
    """

    image_index: tuple[int, ...]
    image_ND: NDArray[np.float32]
    image_sha256: tuple[str, ...]
    text_index: tuple[int, ...]
    text_ND: NDArray[np.float32]
    text_sha256: tuple[str, ...]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Embedded:
        """Itself: it holds no tensors."""
        return self

    @classmethod
    def of(
        cls,
        items: Sequence[EmbedItem],
        embed_images: Callable[[Sequence[Image]], NDArray[np.float32]],
        embed_texts: Callable[[Sequence[str]], NDArray[np.float32]],
    ) -> Embedded:
        """Embeds `items` with a retriever's two methods. A blank text counts as no text."""
        pictured = [(item.index, item.image) for item in items if item.image is not None]
        written = [(item.index, item.text) for item in items if item.text.strip()]
        images, texts = [image for _, image in pictured], [text for _, text in written]
        return cls(
            tuple(index for index, _ in pictured),
            embed_images(images),
            tuple(pixel_sha256(image) for image in images),
            tuple(index for index, _ in written),
            embed_texts(texts),
            tuple(fingerprint(text) for text in texts),
        )
