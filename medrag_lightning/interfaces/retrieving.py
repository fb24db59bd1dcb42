"""Encoders, sources of candidates, and what brings several similarities together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor
from torch.nn import Module

from medrag_lightning.interfaces.serving import OpenImage
from medrag_lightning.records import Channel, Document, Query, Retrieved


@runtime_checkable
class Retriever(Protocol):
    """A dual encoder: images and texts to unit vectors in one space, or in one space per kind."""

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        ...

    @property
    def shared_space(self) -> bool:
        """Whether an image vector may be compared with a text vector."""
        ...

    def embed_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """(B, D) unit vectors; (0, D) for no image."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(B, D) unit vectors; (0, D) for no text."""
        ...

    def describe(self) -> dict[str, str]:
        """The parts of the fingerprint by name (weights, transform, ...), to say what differs."""
        ...

    def fingerprint(self) -> str:
        """sha256 over weights and transforms: the same fingerprint gives the same vectors."""
        ...


@runtime_checkable
class DualEncoder(Retriever, Protocol):
    """A retriever whose towers can be trained (at run time a torch module). Inputs are made in loader workers."""

    def prepare(self, texts: Iterable[str]) -> None:
        """Builds or loads the weights, once; an encoder without a tokenizer of its own trains one on `texts`."""
        ...

    def image_inputs(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """Images as tensors whose first axis is B; no weights are touched."""
        ...

    def text_inputs(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Texts as tensors whose first axis is B; no weights are touched."""
        ...

    def image_vectors(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """float32 (B, D) unit vectors; differentiable."""
        ...

    def text_vectors(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """float32 (B, D) unit vectors; differentiable."""
        ...

    def image_tower(self) -> Module:
        """A copy of the image tower with weights of its own: `image_inputs` to float32 (B, D) unit vectors."""
        ...

    def settings(self) -> dict[str, Any]:
        """What a checkpoint must keep to rebuild the encoder before training, as plain JSON."""
        ...

    def restore(self, settings: dict[str, Any]) -> None:
        """`prepare` from a checkpoint's settings; ValueError where they contradict this encoder's own."""
        ...


@runtime_checkable
class QueryEncoder(Protocol):
    """A retriever whose query vectors are not its passage vectors: a head for each side that is searched (JOMED)."""

    def embed_queries(self, images: Sequence[Image], side: str) -> NDArray[np.float32]:
        """(B, D) query vectors for a search among ``image`` or ``text`` vectors; not necessarily of unit length."""
        ...

    def query_fingerprint(self) -> str:
        """sha256 over what the query vectors depend on beyond `Retriever.fingerprint`."""
        ...


@runtime_checkable
class QuestionEncoder(Protocol):
    """A retriever whose vectors of questions are made otherwise than those of texts: two-encoder pairs such as MedCPT."""

    def embed_questions(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(B, D) vectors of questions for a search among text vectors."""
        ...

    def question_fingerprint(self) -> str:
        """sha256 over what the vectors of questions depend on beyond `Retriever.fingerprint`."""
        ...


@runtime_checkable
class Reranker(Protocol):
    """Reads a question and a text together and tells how well the text answers it (HeteroRAG: MedCPT's cross-encoder)."""

    def relevance(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """(P,) one number for each (question, text), higher for the better text; comparable within one question only."""
        ...

    def fingerprint(self) -> str:
        """sha256 over everything that the numbers depend on."""
        ...


@runtime_checkable
class QueryTowers(Protocol):
    """What stage `retriever_kl` trains around a dual encoder (at run time a torch module): query vectors for each side."""

    @property
    def encoder(self) -> DualEncoder:
        """The encoder whose vectors the evidence store holds."""
        ...

    @property
    def sides(self) -> tuple[str, ...]:
        """The searched sides (``image``, ``text``) whose query vectors train."""
        ...

    share: float
    """Share of `query_mix` with which trained heads will ask: 1 until a validation chooses less; kept in the description."""

    @property
    def trains_passages(self) -> bool:
        """Whether passage vectors train, too; then stored ones grow stale (index refresh)."""
        ...

    def prepare(self, texts: Iterable[str]) -> None:
        """Loads the encoder and makes what trains; once."""
        ...

    def frozen_vectors(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """float32 (B, D) image vectors of the encoder before training, without gradient."""
        ...

    def query_vectors(self, side: str, inputs: Mapping[str, Tensor], frozen_BD: Tensor) -> Tensor:
        """float32 (B, D) query vectors e(q) for a side; the frozen ones for a side that has no head."""
        ...

    def passage_vectors(self, side: str, inputs: Mapping[str, Tensor]) -> Tensor:
        """float32 (N, D) vectors of passages with gradient; RuntimeError unless `trains_passages`."""
        ...

    def start_from(self, description: dict[str, Any], weights: Mapping[str, Tensor], where: str) -> None:
        """Begins with another run's trained weights; heads of sides that do not train here are kept frozen."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a checkpoint must keep to rebuild them, as plain JSON."""
        ...

    def restore(self, description: dict[str, Any]) -> None:
        """`prepare` from a checkpoint's description; ValueError where it contradicts the settings."""
        ...


@runtime_checkable
class VectorSource(Protocol):
    """A candidate source that knows the vectors of its documents."""

    def document_vectors(self, side: str, ids: Sequence[str]) -> NDArray[np.float32]:
        """(len(ids), D) stored vectors on a side (``image``, ``text``); ValueError names a document that has none."""
        ...


@runtime_checkable
class Refreshable(Protocol):
    """A candidate source whose vectors can be made anew while an encoder trains (index refresh)."""

    def refresh(self, encoder: Retriever) -> None:
        """From now on `encoder` makes the vectors of queries and documents; a `load` must follow."""
        ...


@runtime_checkable
class CandidateSource(Protocol):
    """Finds evidence for queries. A candidate never shares id, study, patient or image with its query."""

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Builds what it needs under `folder`, or checks what is there; called in one process at a time."""
        ...

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Opens what `prepare` made; called in every process."""
        ...

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        """The candidates of each query, best first, in query order."""
        ...

    def fingerprint(self) -> str:
        """What the candidates depend on; cached candidates of another fingerprint are refused."""
        ...


@runtime_checkable
class BringsDocuments(Protocol):
    """A source whose candidates are no documents of the corpus (the web); as a part of a search it needs none there."""

    @property
    def brings_documents(self) -> bool:
        """True."""
        ...


@runtime_checkable
class SimilaritySource(Protocol):
    """A source that can tell how similar a query and a document are, channel by channel."""

    def similarities(
        self, queries: Sequence[Query], ids: Sequence[Sequence[str]], channels: Sequence[Channel]
    ) -> list[NDArray[np.float32]]:
        """For each query the cosines (K, M) of its documents `ids` in `channels`; NaN where a side is missing."""
        ...


@runtime_checkable
class SimilarityFusion(Protocol):
    """Several similarities of a query and a document as one score: f(q, d) = sum_m w_m cos_m (MR-RAG)."""

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The M similarities that it weighs, in order."""
        ...

    def scores(self, similarity_BKM: NDArray[np.float32], queries: Sequence[Query]) -> NDArray[np.float32]:
        """f (B, K) for the candidates of B queries; NaN where a candidate has no similarity at all (padding)."""
        ...

    def fingerprint(self) -> str:
        """sha256 over everything that the scores depend on."""
        ...


@runtime_checkable
class LearnedFusion(SimilarityFusion, Protocol):
    """What stage `fusion_nce` trains (at run time a torch module): weights that all queries share, and each query's own."""

    @property
    def is_shared(self) -> bool:
        """Whether every query has the shared weights (MR-RAG)."""
        ...

    def prepare(self, modalities: Iterable[str]) -> None:
        """Makes what trains, once; `modalities` are those of the training queries."""
        ...

    def comparable(self, similarity_BKM: Tensor) -> Tensor:
        """(B, K, M) what the weights multiply: standardised, where asked for, and without NaN."""
        ...

    def shared_weights(self) -> Tensor:
        """(M,) weights for any query; differentiable."""
        ...

    def query_weights(self, similarity_BKM: Tensor, modality: Sequence[str | None]) -> Tensor:
        """(B, M) weights of each query; differentiable, but passing no gradient to the shared ones unless `is_shared`."""
        ...

    def modality_weights(self) -> dict[str, Tensor]:
        """(M,) weights of each modality that has its own; empty where the weights do not go by modality alone."""
        ...

    def temperatures(self) -> tuple[Tensor, Tensor]:
        """What divides scores under the shared weights, and under the queries' own; differentiable where it is learned."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a checkpoint must keep to rebuild it, as plain JSON."""
        ...

    def restore(self, description: dict[str, Any]) -> None:
        """`prepare` from a checkpoint's description; ValueError where it contradicts the settings."""
        ...

    def start_from(self, description: dict[str, Any], weights: Mapping[str, Tensor], where: str) -> None:
        """Begins with another run's weights, or with its shared weights alone where that run had no others."""
        ...
