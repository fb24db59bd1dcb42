"""Any cross-encoder of the Hugging Face hub as a re-ranker: it reads question and text together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.models.embedding import evaluating
from medrag_lightning.models.text_models import load_text_model, model_sha256, text_limit


class CrossEncoder:
    """The logit of "this text answers this question", by a frozen `AutoModelForSequenceClassification`; `interfaces.Reranker`.

    A model with one output gives that logit; of two outputs, relevance is the second's logit less the first's. Pairs beyond
    `max_tokens` are cut at the end of the text, and of the question only where it alone is longer than half of them. HeteroRAG:
    ``name: ncbi/MedCPT-Cross-Encoder``, pairs of at most 512 tokens, 32 at a time.

    Args:
        name: hub name or folder.
        revision: branch, tag or commit on the hub.
        max_tokens: where pairs are cut.
        batch_size: pairs in one forward pass.
        dtype: of weights and computation.
        device: where the weights go when they are loaded; ``auto``: the GPU if there is one.
    """

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        max_tokens: int = 512,
        batch_size: int = 32,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        device: str = "auto",
    ) -> None:
        if max_tokens < 8 or batch_size < 1:
            raise ValueError(f"CrossEncoder needs max_tokens >= 8 and batch_size >= 1, got {max_tokens} and {batch_size}")
        self.name, self.revision, self.max_tokens, self.batch_size = name, revision, max_tokens, batch_size
        self.dtype, self.device_name = dtype, device
        self._loaded: tuple[Any, Any] | None = None
        self._fingerprint: str | None = None

    def relevance(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """(P,) logits; pairs of like length share a batch."""
        model, tokenizer = self._model()
        device, kinds = next(model.parameters()).device, int(getattr(model.config, "type_vocab_size", 0) or 0)
        told_P = np.zeros(len(pairs), np.float32)
        order = sorted(range(len(pairs)), key=lambda place: sum(map(len, pairs[place])))
        with evaluating(model):
            for start in range(0, len(order), self.batch_size):
                places = order[start : start + self.batch_size]
                made = self._inputs(tokenizer, [pairs[place] for place in places], kinds)
                logit_BC = model(**made.to(device)).logits.float()
                told_B = logit_BC[:, 0] if logit_BC.shape[1] == 1 else logit_BC[:, 1] - logit_BC[:, 0]
                told_P[places] = told_B.cpu().numpy()
        return told_P

    def fingerprint(self) -> str:
        """sha256 over weights, tokenizer and where pairs are cut."""
        if self._fingerprint is None:
            parts = model_sha256(*self._model())
            self._fingerprint = fingerprint("cross encoder", parts, [self.max_tokens, self.dtype])
        return self._fingerprint

    def _inputs(self, tokenizer: Any, pairs: Sequence[tuple[str, str]], kinds: int) -> Any:
        """Tokens of the pairs, question first; with the kind of each token where the model knows several `kinds`."""
        half = self.max_tokens // 2
        questions = tokenizer([question for question, _ in pairs], add_special_tokens=False)["input_ids"]
        short = [
            question if len(tokens) <= half else tokenizer.decode(tokens[:half])
            for (question, _), tokens in zip(pairs, questions, strict=True)
        ]
        texts = [text for _, text in pairs]
        limits: dict[str, Any] = {"truncation": "only_second", "max_length": self.max_tokens}
        if kinds > 1:  # not every tokenizer of such a model tells them by itself
            limits["return_token_type_ids"] = True
        return tokenizer(short, texts, padding=True, return_tensors="pt", **limits)

    def _model(self) -> tuple[Any, Any]:
        if self._loaded is None:
            loader = "AutoModelForSequenceClassification"
            model, tokenizer = load_text_model(loader, self.name, self.revision, self.dtype, self.device_name)
            outputs = getattr(model.config, "num_labels", None)
            if outputs not in (1, 2):
                told = f"has {outputs} outputs, no re-ranker; give a model with one or two"
                raise ValueError(f"cross-encoder {self.name!r} {told}")
            text_limit(model, tokenizer, self.max_tokens, self.name)
            self._loaded = model, tokenizer
        return self._loaded
