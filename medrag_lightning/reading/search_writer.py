"""A reader that writes searches: a question and its image in, what to ask each corpus out (HeteroRAG, MQG)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from PIL.Image import Image

from medrag_lightning.batches import Example, ReaderBatch
from medrag_lightning.interfaces import Reader
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.search_collator import SearchCollator, checked_corpora
from medrag_lightning.records import Query, Regime, WrittenSearches, parse_searches


class SearchWriter:
    """Writes at most one search for each corpus, or none, which means: do not search there. No evidence is shown.

    Args:
        reader: the query generator; its weights must be there when it writes, and the caller puts it to evaluation.
        template: the prompt template of its training; `instruction` or `closing` may tell what each corpus holds.
        corpora: names of the corpora, in the order of the tags.
        max_new_tokens: longest text.
    """

    def __init__(self, reader: Reader, template: PromptTemplate, corpora: Sequence[str], max_new_tokens: int) -> None:
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        self.reader, self.template, self.max_new_tokens = reader, template, max_new_tokens
        self.corpora = checked_corpora(corpora)

    @cached_property
    def collate(self) -> SearchCollator:
        """Examples to encoded prompts."""
        return SearchCollator(self.reader.processor, self.template, self.corpora, training=False)

    def identity(self) -> dict[str, Any]:
        """What written searches depend on, by name."""
        return {
            "generator": self.reader.fingerprint(),
            "template": self.template.fingerprint(),
            "corpora": list(self.corpora),
            "max_new_tokens": self.max_new_tokens,
        }

    def write(self, queries: Sequence[Query], images: Sequence[Image | None]) -> list[WrittenSearches]:
        """What to ask each corpus for each question, whose image stands at its place in `images`."""
        asked = [
            Example(replace(query, searches=None), Regime.NONE, (), image) for query, image in zip(queries, images, strict=True)
        ]
        return self.read(self.collate(asked).to(self._device())) if asked else []

    @torch.no_grad()
    def read(self, batch: ReaderBatch) -> list[WrittenSearches]:
        """The same for an encoded batch, in its order; greedy. Any text can be read: a bad one has `faults`."""
        found: dict[int, WrittenSearches] = {}
        for part in batch.parts:
            spoken = self.reader.generate(part.prompts, self.max_new_tokens)
            for place, ids in zip(part.query_of_prompt, spoken, strict=True):
                found[place] = parse_searches(self.reader.processor.decode(ids), self.corpora)
        return [found[place] for place in range(len(batch))]

    def _device(self) -> torch.device:
        if isinstance(self.reader, torch.nn.Module):
            return next((parameter.device for parameter in self.reader.parameters()), torch.device("cpu"))
        return torch.device("cpu")
