"""Any language model of the Hugging Face hub as a rewriter: it is shown one example and asked for the question alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import torch

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import RewriteTask
from medrag_lightning.models.backbones import Pretrained
from medrag_lightning.models.plain_text import WORD_JOINT, PlainText
from medrag_lightning.models.prompted import model_identity
from medrag_lightning.models.text_models import load_text_model

PROMPT = """\
Rewrite the last question of a dialogue about a medical image so that somebody who has not read the dialogue understands it. \
Name what the question points to (it, its, this, the other one) or leaves out. Do not answer it. Add nothing that was not \
said. A question that is clear by itself stays as it is. Reply with the question alone, on one line.

Example
Question: What does the film show?
Answer: A small pneumothorax on the left side.
Question: Is it an emergency?
Answer: Not at this size.
Last question: And how is it treated?
Rewritten question: How is a small pneumothorax on the left side treated?

Dialogue
{dialogue}
Last question: {question}
Rewritten question:"""
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_LABEL = re.compile(r"^(?:the\s+)?(?:rewritten|standalone|last)?\s*question\s*:\s*", re.IGNORECASE)
_QUOTES = "\"'`*“”‘’ "


class LmRewriter:
    """Writes standalone questions with a frozen causal language model, or the language side of a vision-language model, by its
    most likely words; `interfaces.Rewriter`. Images are not shown (MIRA). Put it behind `data.cached_rewriter.CachedRewriter`,
    which `data.searches.rewriter` does by itself.

    What the words of a dialogue say is text to it: special tokens in them are broken, and it is told only what they are. It may
    still answer instead of rewriting, or follow what a question tells it: what it writes is searched with, and shown to nobody
    as an answer. Rounding may change a word with the batch; what was written once is kept.

    Args:
        name: hub name or folder.
        revision: branch, tag or commit on the hub.
        max_new_tokens: longest question.
        max_prompt_tokens: of a longer prompt the earliest turns are left out.
        batch_size: questions in one pass.
        dtype: of weights and computation.
        device: where the weights go when they are loaded; ``auto``: the GPU if there is one.
    """

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        max_new_tokens: int = 96,
        max_prompt_tokens: int = 2048,
        batch_size: int = 16,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        device: str = "auto",
    ) -> None:
        if max_new_tokens < 1 or max_prompt_tokens < 1 or batch_size < 1:
            told = f"got {max_new_tokens}, {max_prompt_tokens} and {batch_size}"
            raise ValueError(f"LmRewriter needs max_new_tokens, max_prompt_tokens and batch_size of at least 1, {told}")
        self.name, self.revision, self.dtype, self.device_name = name, revision, dtype, device
        self.max_new_tokens, self.max_prompt_tokens, self.batch_size = max_new_tokens, max_prompt_tokens, batch_size
        self._loaded: tuple[Any, Any, PlainText] | None = None
        self._fingerprint: str | None = None

    def load(self) -> None:
        """Loads the weights, once; ValueError where they cannot be."""
        if self._loaded is None:
            model, tokenizer = load_text_model(self._kind(), self.name, self.revision, self.dtype, self.device_name)
            tokenizer.padding_side = "left"
            if tokenizer.pad_token_id is None:
                tokenizer.pad_token = tokenizer.eos_token
            self._loaded = model, tokenizer, PlainText(tokenizer, "<image>", _rendered(tokenizer, ""))

    def rewrite(self, tasks: Sequence[RewriteTask]) -> list[str | None]:
        """A question a task; None where the model wrote none."""
        self.load()
        made: list[str | None] = []
        for start in range(0, len(tasks), self.batch_size):
            made += self._say([self._prompt(task) for task in tasks[start : start + self.batch_size]])
        return made

    def fingerprint(self) -> str:
        """sha256 over the model's name, commit and files, the prompt and the settings; nothing is loaded for it."""
        if self._fingerprint is None:
            identity = model_identity(Pretrained(self.name, self.dtype, revision=self.revision))
            self._fingerprint = fingerprint("lm rewriter", identity, PROMPT, [self.max_new_tokens, self.max_prompt_tokens])
        return self._fingerprint

    def _kind(self) -> str:
        """The class of transformers that loads it: a causal language model, else a vision-language model."""
        import transformers
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        try:
            config = transformers.AutoConfig.from_pretrained(self.name, revision=self.revision)
        except (OSError, ValueError):
            return "AutoModelForCausalLM"  # which tells what is wrong, as for every text model
        known = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        return "AutoModelForCausalLM" if known else "AutoModelForImageTextToText"

    def _prompt(self, task: RewriteTask) -> str:
        """The whole prompt, with as many of the latest turns as have room."""
        assert self._loaded is not None, "loaded before"
        _, tokenizer, plain = self._loaded
        for first in range(len(task.history)):
            said = "\n".join(f"Question: {_line(asked)}\nAnswer: {_line(told)}" for asked, told in task.history[first:])
            words = PROMPT.format(dialogue=plain.escape(said), question=plain.escape(_line(task.question)))
            text = _rendered(tokenizer, words)
            if len(tokenizer(text, add_special_tokens=False)["input_ids"]) <= self.max_prompt_tokens:
                break
        return text

    @torch.no_grad()
    def _say(self, prompts: Sequence[str]) -> list[str | None]:
        assert self._loaded is not None, "loaded before"
        model, tokenizer, _ = self._loaded
        whole = tokenizer.chat_template is not None  # such a prompt has its special tokens
        encoded = tokenizer(list(prompts), padding=True, return_tensors="pt", add_special_tokens=not whole)
        told = {name: encoded[name].to(model.device) for name in ("input_ids", "attention_mask")}
        out_PT = model.generate(
            **told, max_new_tokens=self.max_new_tokens, do_sample=False, num_beams=1, pad_token_id=tokenizer.pad_token_id
        )
        texts = tokenizer.batch_decode(out_PT[:, told["input_ids"].shape[1] :], skip_special_tokens=True)
        return [question_of(text) for text in texts]


def question_of(text: str) -> str | None:
    """The question in what a model wrote: its first line, without thoughts, label and quotes; None where there is none."""
    lines = [_LABEL.sub("", line.strip(_QUOTES)).strip(_QUOTES) for line in _THOUGHT.sub("", text).splitlines()]
    found = next((line for line in lines if line), None)
    return None if found is None else found.replace(WORD_JOINT, "")


def _rendered(tokenizer: Any, words: str) -> str:
    """`words` as a user's turn in the model's chat template; as they are for a model without one."""
    if tokenizer.chat_template is None:
        return words
    mark = "WORDS"  # not the words themselves: a template may strip or escape what it is given
    for content in (mark, [{"type": "text", "text": mark}]):
        turn = [{"role": "user", "content": content}]
        try:
            text = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
        except (TypeError, ValueError):
            continue
        if text.count(mark) == 1:
            return text.replace(mark, words)
    raise ValueError("the chat template of the rewriter's model shows no words of a user; give a model for dialogues")


def _line(text: str) -> str:
    return " ".join(text.split())
