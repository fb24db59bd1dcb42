"""Summaries of sections by any causal language model of the Hugging Face hub (MIRA: Qwen2.5-72B, 32B again, three tries)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import SummaryTask
from medrag_lightning.models.text_models import load_text_model, model_sha256
from medrag_lightning.prompts import cut_at_word

PROMPT = """\
Below is a section of a page of medical reference. Write a summary of it in at most {sentences} plain sentences.
- Keep every number, dose, side, name of a finding, disease or drug, and every "not" and "without" that matters.
- Add nothing that the section does not say. Do not mention the section or the page.
- Write no headings, no lists, no markup. If the section says nothing of medical interest, write nothing at all.

Page: {title}
Headings: {headings}
Section: {text}"""
ANSWER_CUE = "\n\nSummary:"


class LmSummariser:
    """Writes summaries with a language model; `interfaces.Summariser`. Its weights are loaded when it is first asked.

    The most likely words are taken (temperature 0), each section in a call of its own batch place, so that a summary depends on
    its section alone (up to the rounding of padded batches). A model with a chat template is asked through it.

    Args:
        name: hub name or folder of an `AutoModelForCausalLM`, safetensors only; code on the hub is never run.
        sentences: longest summary.
        max_new_tokens: longest summary in tokens; a longer one is cut after its last whole sentence.
        max_chars: longest text that is read; the rest is cut off after a word.
        revision: branch, tag or commit on the hub.
        dtype: of weights and computation.
        device: where the weights go; ``auto``: the GPU if there is one.
    """

    def __init__(
        self,
        name: str,
        sentences: int = 5,
        max_new_tokens: int = 256,
        max_chars: int = 8000,
        revision: str | None = None,
        dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16",
        device: str = "auto",
    ) -> None:
        for setting, value in {"sentences": sentences, "max_new_tokens": max_new_tokens, "max_chars": max_chars}.items():
            if value < 1:
                raise ValueError(f"LmSummariser: {setting} must be at least 1, got {value}")
        self.name, self.sentences, self.max_new_tokens, self.max_chars = name, sentences, max_new_tokens, max_chars
        self.revision, self.dtype, self.device_name = revision, dtype, device
        self._loaded: tuple[Any, Any] | None = None
        self._hashes: dict[str, str] | None = None

    @torch.no_grad()
    def summarise(self, tasks: Sequence[SummaryTask]) -> list[str]:
        """One text a task; empty where the model writes nothing, or not one whole sentence."""
        if not tasks:
            return []
        model, tokenizer = self._model()
        tokenizer.padding_side, tokenizer.truncation_side = "left", "left"
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        asked = [self._asked(task, tokenizer) for task in tasks]
        encoded = tokenizer(asked, return_tensors="pt", padding=True, add_special_tokens=tokenizer.chat_template is None)
        self._check_length(encoded["input_ids"].shape[1], model)
        inputs = {name: encoded[name].to(model.device) for name in ("input_ids", "attention_mask")}
        out_BT = model.generate(
            **inputs, max_new_tokens=self.max_new_tokens, do_sample=False, num_beams=1, pad_token_id=tokenizer.pad_token_id
        )
        new_BT = out_BT[:, inputs["input_ids"].shape[1] :]
        ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}
        return [
            _whole(text, cut=not ends & set(row))
            for text, row in zip(tokenizer.batch_decode(new_BT, skip_special_tokens=True), new_BT.tolist(), strict=True)
        ]

    def fingerprint(self) -> str:
        """sha256 over weights, tokenizer, prompt and settings; loads the model."""
        if self._hashes is None:
            self._hashes = model_sha256(*self._model())
        settings = [self.sentences, self.max_new_tokens, self.max_chars, self.dtype]
        return fingerprint("language model summariser", self._hashes, PROMPT, ANSWER_CUE, settings)

    def _asked(self, task: SummaryTask, tokenizer: Any) -> str:
        headings = ", ".join(task.headings) or "none"
        text = cut_at_word(task.text, self.max_chars)
        told = PROMPT.format(sentences=self.sentences, title=task.title or "none", headings=headings, text=text)
        if tokenizer.chat_template is None:
            return told + ANSWER_CUE
        words = [{"role": "user", "content": told}]
        return str(tokenizer.apply_chat_template(words, tokenize=False, add_generation_prompt=True))

    def _check_length(self, prompt_tokens: int, model: Any) -> None:
        context = getattr(model.config, "max_position_embeddings", None)
        if context is not None and prompt_tokens + self.max_new_tokens > context:
            raise ValueError(
                f"{self.name!r} reads {context} tokens, and a section with its summary takes {prompt_tokens} + "
                f"{self.max_new_tokens}: lower max_chars ({self.max_chars}) or max_new_tokens"
            )

    def _model(self) -> tuple[Any, Any]:
        if self._loaded is None:
            loading = ("AutoModelForCausalLM", self.name, self.revision, self.dtype, self.device_name)
            self._loaded = load_text_model(*loading)
        return self._loaded


def _whole(text: str, cut: bool) -> str:
    """A summary on one line; where its end was cut off, up to its last whole sentence."""
    text = " ".join(text.split())
    if not cut:
        return text
    return text[: max(text.rfind(mark) for mark in (".", "!", "?")) + 1]
