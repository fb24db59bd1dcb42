"""Any sentence encoder of the Hugging Face hub, or a pair of one for questions and one for texts, such as MedCPT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn import functional

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.models.embedding import embed
from medrag_lightning.models.text_models import load_text_model, model_sha256, shown_name, text_limit

Pooling = Literal["mean", "cls"]


class SentenceEncoder:
    """Questions and texts to vectors, by encoders with frozen weights; `interfaces.Retriever` and `QuestionEncoder`.

    For `source.LiveSearch` with ``text_to_text``. It reads no images. Texts beyond `max_tokens` are cut, so chunks should fit.
    Weights are read as safetensors only, code on the hub is never run.

    MedCPT (HeteroRAG's own): ``query: ncbi/MedCPT-Query-Encoder, document: ncbi/MedCPT-Article-Encoder, pooling: cls,
    max_query_tokens: 64``, and as published it ranks by inner product: ``largest_norm: 32``.

    Args:
        query: hub name or folder of the encoder of questions.
        document: of the encoder of texts; null where one encoder makes both.
        pooling: ``mean`` over the tokens, or the first token's vector (``cls``).
        largest_norm: null: vectors are brought to length 1 and compared by cosine. A number: they are compared by inner
            product, longer ones scoring higher; no text's vector may be longer than this number, which scores are divided by.
        max_tokens, max_query_tokens: where texts and questions are cut; null for the model's context.
        query_prefix, document_prefix: words that an encoder wants before each question or text, such as ``query: ``.
        query_revision, document_revision: branch, tag or commit on the hub.
        dtype: of weights and computation; vectors are float32 always.
        device: where the weights go when they are loaded; ``auto``: the GPU if there is one.
        batch_size: texts in one forward pass.
    """

    def __init__(
        self,
        query: str,
        document: str | None = None,
        pooling: Pooling = "mean",
        largest_norm: float | None = None,
        max_tokens: int | None = None,
        max_query_tokens: int | None = None,
        query_prefix: str = "",
        document_prefix: str = "",
        query_revision: str | None = None,
        document_revision: str | None = None,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        device: str = "auto",
        batch_size: int = 64,
    ) -> None:
        counts = {"max_tokens": max_tokens, "max_query_tokens": max_query_tokens, "batch_size": batch_size}
        for setting, value in counts.items():
            if value is not None and value < 1:
                raise ValueError(f"{setting} must be at least 1, got {value}")
        if largest_norm is not None and not largest_norm > 0:
            raise ValueError(f"largest_norm must be above 0, got {largest_norm}; null compares by cosine")
        if pooling not in ("mean", "cls"):
            raise ValueError(f"pooling must be mean or cls, got {pooling!r}")
        if document is None and document_revision is not None:
            raise ValueError("document_revision would be ignored without document: one encoder makes both; leave it out")
        self.query, self.document, self.pooling, self.largest_norm = query, document, pooling, largest_norm
        self.max_tokens, self.max_query_tokens = max_tokens, max_query_tokens
        self.query_prefix, self.document_prefix = query_prefix, document_prefix
        self.query_revision, self.document_revision = query_revision, document_revision
        self.dtype, self.device_name, self.batch_size = dtype, device, batch_size
        self._models: dict[str, tuple[Any, Any]] = {}
        self._hashes: dict[str, dict[str, str]] = {}

    @property
    def dim(self) -> int:
        """Width D of the vectors; loads the encoder of texts."""
        return int(self._text_model()[0].config.hidden_size) + (self.largest_norm is not None)

    @property
    def shared_space(self) -> bool:
        """False: there are no image vectors."""
        return False

    def embed_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """(0, D) for no image; ValueError for any."""
        if images:
            raise ValueError(
                "SentenceEncoder reads texts only, and the corpus has images: search the texts without an image with it "
                "(retrieval.knowledge_search.KnowledgeSearch, its documents), or use LexicalSearch"
            )
        return np.zeros((0, self.dim), np.float32)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(B, D) unit vectors of texts."""
        model, tokenizer = self._text_model()
        limit = text_limit(model, tokenizer, self.max_tokens, self.document or self.query)
        found = self._embed(model, tokenizer, [self.document_prefix + text for text in texts], limit)
        return _unit(found) if self.largest_norm is None else self._lengthened(found, texts)

    def embed_questions(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(B, D) unit vectors of questions."""
        model, tokenizer = self._model(self.query, self.query_revision)
        limit = text_limit(model, tokenizer, self.max_query_tokens, self.query)
        found = self._embed(model, tokenizer, [self.query_prefix + text for text in texts], limit)
        if found.shape[1] != self.dim - (self.largest_norm is not None):
            raise ValueError(f"{self.query!r} gives vectors of width {found.shape[1]}, {self.document!r} others: no pair")
        if self.largest_norm is None:
            return _unit(found)
        return np.pad(_unit(found), ((0, 0), (0, 1)))

    def describe(self) -> dict[str, str]:
        """Name, sha256 of weights and of the transform of the encoder of texts, which the store's vectors depend on."""
        model, tokenizer = self._text_model()
        parts = self._sha256(self.document or self.query, self.document_revision if self.document else self.query_revision)
        limit = text_limit(model, tokenizer, self.max_tokens, self.document or self.query)
        transform = fingerprint(parts["tokenizer"], [limit, self.pooling, self.largest_norm, self.document_prefix, self.dtype])
        return {"name": shown_name(self.document or self.query), "weights": parts["weights"], "transform": transform}

    def fingerprint(self) -> str:
        """sha256 over weights and transform of the encoder of texts; the same weights under another name have the same."""
        parts = self.describe()
        return fingerprint(parts["weights"], parts["transform"])

    def question_fingerprint(self) -> str:
        """sha256 over weights and transform of the encoder of questions."""
        model, tokenizer = self._model(self.query, self.query_revision)
        limit = text_limit(model, tokenizer, self.max_query_tokens, self.query)
        parts = self._sha256(self.query, self.query_revision)
        return fingerprint(parts, [limit, self.pooling, self.query_prefix, self.dtype])

    def _text_model(self) -> tuple[Any, Any]:
        if self.document is None:
            return self._model(self.query, self.query_revision)
        return self._model(self.document, self.document_revision)

    def _model(self, name: str, revision: str | None) -> tuple[Any, Any]:
        key = f"{name}@{revision or ''}"
        if key not in self._models:
            self._models[key] = load_text_model("AutoModel", name, revision, self.dtype, self.device_name)
        return self._models[key]

    def _sha256(self, name: str, revision: str | None) -> dict[str, str]:
        """Of an encoder's weights and tokenizer, made once: they are frozen."""
        key = f"{name}@{revision or ''}"
        if key not in self._hashes:
            self._hashes[key] = model_sha256(*self._model(name, revision))
        return self._hashes[key]

    def _embed(self, model: Any, tokenizer: Any, texts: Sequence[str], limit: int) -> NDArray[np.float32]:
        """(B, D) vectors as they come; texts of like length share a batch, the order stays."""

        def inputs(part: Sequence[str]) -> dict[str, Tensor]:
            made = tokenizer(list(part), padding=True, truncation=True, max_length=limit, return_tensors="pt")
            return {key: value for key, value in made.items() if isinstance(value, Tensor)}

        def vectors(made: Mapping[str, Tensor]) -> Tensor:
            device = next(model.parameters()).device
            told = {key: value.to(device) for key, value in made.items()}
            return _pooled(model(**told).last_hidden_state.float(), told["attention_mask"], self.pooling)

        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        width = int(model.config.hidden_size)
        found = embed(_module(model), [texts[place] for place in order], self.batch_size, inputs, vectors, width)
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return found[back]

    def _lengthened(self, found_BD: NDArray[np.float32], texts: Sequence[str]) -> NDArray[np.float32]:
        """(B, D + 1) unit vectors whose product with a padded question is the inner product, divided by `largest_norm`."""
        assert self.largest_norm is not None
        share_BD = found_BD.astype(np.float64) / self.largest_norm
        left_B = 1 - np.square(share_BD).sum(axis=1)
        if len(left_B) and left_B.min() < 0:
            worst = int(left_B.argmin())
            length = float(np.linalg.norm(found_BD[worst]))
            raise ValueError(
                f"largest_norm={self.largest_norm} is too small: the vector of the text that begins {texts[worst][:40]!r} has "
                f"length {length:.2f}; set it to {1.5 * length:.0f} or so"
            )
        return np.concatenate([share_BD, np.sqrt(left_B)[:, None]], axis=1).astype(np.float32)


def _pooled(hidden_BTD: Tensor, mask_BT: Tensor, pooling: Pooling) -> Tensor:
    """(B, D) mean over the tokens that are no padding, or the first of them."""
    if pooling == "mean":
        weight_BT = mask_BT.to(hidden_BTD.dtype)
        return (hidden_BTD * weight_BT[..., None]).sum(1) / weight_BT.sum(1, keepdim=True).clamp(min=1)
    first_B = mask_BT.argmax(dim=1)  # 0 unless padding stands at the left
    return hidden_BTD[torch.arange(len(hidden_BTD), device=hidden_BTD.device), first_B]


def _unit(found_BD: NDArray[np.float32]) -> NDArray[np.float32]:
    return functional.normalize(torch.from_numpy(found_BD), dim=-1).numpy()


def _module(model: Any) -> nn.Module:
    assert isinstance(model, nn.Module)
    return model
