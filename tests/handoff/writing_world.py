"""A query generator that has learnt to ask the book for the word that a question ends with, and the graph for nothing."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache

import torch

from medrag_lightning.batches import Example
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.lora import LoraSettings
from medrag_lightning.models.tiny import TinyBackbone
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.search_collator import SearchCollator
from medrag_lightning.reading.search_writer import SearchWriter
from medrag_lightning.records import Query, Regime, format_searches

WORDS = ("red", "blue", "cold", "crimson")
CORPORA = ["book", "graph"]
TEMPLATE = PromptTemplate(closing="search:")


def question(word: str) -> str:
    return f"which colour is it, {word}?"


def searches_for(word: str) -> tuple[tuple[str, str], ...]:
    return (("book", f"{word} is"),) if word != "crimson" else ()


@cache
def _trained(adapter: bool) -> HfReader:
    small = {"hidden": 32, "layers": 1, "heads": 2, "vision_hidden": 32, "vision_layers": 1, "image_side_px": 32}
    lora = LoraSettings(rank=8, alpha=16) if adapter else None
    made = HfReader(TinyBackbone(**{**small, "vocabulary": 320, "dropout": 0.0}), lora)
    texts = [format_searches({"book": [f"{word} is"]}, CORPORA) for word in WORDS]
    made.prepare([*texts, *map(question, WORDS), "search:"] * 4)
    if adapter:  # over a base that asks for another word
        _learn(made, [*WORDS[1:], WORDS[0]], "base", 5e-3)
    _learn(made, WORDS, "lora" if adapter else "base", 2e-2 if adapter else 5e-3)
    return made.requires_grad_(False).eval()


def _learn(made: HfReader, asked: Sequence[str], which: str, lr: float) -> None:
    told = zip(WORDS, asked, strict=True)
    queries = [Query(word, question(word), None, searches=searches_for(other)) for word, other in told]
    batch = SearchCollator(made.processor, TEMPLATE, CORPORA, training=True)(
        [Example(query, Regime.NONE, (), None) for query in queries]
    )
    mine = [p.requires_grad_() for name, p in made.named_parameters() if ("lora_" in name) == (which == "lora")]
    optimizer = torch.optim.AdamW(mine, lr=lr)
    for _ in range(300):
        losses = [-made.token_logp(part.prompts, part.rows).sum() for part in batch.parts]
        optimizer.zero_grad()
        total = sum(losses[1:], losses[0])
        total.backward()
        optimizer.step()
        if float(total.detach()) < 0.6:
            break
    made.requires_grad_(False)


def writer(adapter: bool = False) -> SearchWriter:
    """A generator that may be changed: an export merges it."""
    return SearchWriter(copy.deepcopy(_trained(adapter)), TEMPLATE, CORPORA, 40)
