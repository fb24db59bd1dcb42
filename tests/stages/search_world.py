"""Coloured squares whose question never says the colour, and three small corpora that know about colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from preference_world import LORA
from toy import COLOURS, ToyTable, trainer

from medrag_lightning.data.module import MedragData
from medrag_lightning.data.search_plan import SearchPlan
from medrag_lightning.interfaces import OpenImage
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.tiny import TinyBackbone
from medrag_lightning.models.trained_backbone import TrainedBackbone
from medrag_lightning.records import Candidate, Channel, Document, Query, Retrieved, Split
from medrag_lightning.retrieval.wording import wording
from medrag_lightning.search_files import SearchRow, write_searches
from medrag_lightning.stages.query_generator import QueryGenerator

__all__ = ["CORPORA", "data", "reader", "stage", "targets", "trainer", "words_for"]
CORPORA = ["research", "wiki", "graph"]
NAMES = list(COLOURS)
QUESTIONS = ("which pigment?", "what is it good for?", "is it square?")


class SquareTable(ToyTable):
    """A question names a corpus by its words and never the colour; the third kind needs no document."""

    def queries(self) -> list[Query]:
        return [self._worded(query, n) for n, query in enumerate(super().queries())]

    def _worded(self, query: Query, n: int) -> Query:
        kind = n // 4 % 3
        gold = (f"{CORPORA[kind]}-{NAMES[n % 4]}",) if kind < 2 else ()
        return replace(
            query, question=QUESTIONS[kind], relevant_ids=gold, poison_ids=(), need=("document", "document", "image")[kind]
        )

    def documents(self) -> list[Document]:
        told = [(corpus, colour) for corpus in CORPORA for colour in NAMES]
        return [Document(f"{corpus}-{colour}", f"{colour} says the {corpus}", source=corpus) for corpus, colour in told]


class WordSource:
    """Of each corpus the documents that hold a word of the wording, then the others, two in all."""

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        self.load(documents, open_image, folder)

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        self.documents = list(documents)

    def retrieve(self, queries: Sequence[Query]) -> list[Retrieved]:
        return [Retrieved(query.id, tuple(self._found(query)), "words") for query in queries]

    def _found(self, query: Query) -> list[Candidate]:
        found: list[Candidate] = []
        for corpus in CORPORA:
            if words := wording(query, corpus):
                mine = [d for d in self.documents if d.corpus == corpus]
                mine.sort(key=lambda d: -len(set(d.text.split()) & set(words.split())))
                found += [Candidate(d, 1.0, Channel.LEXICAL) for d in mine[:1]]
        return found

    def fingerprint(self) -> str:
        return "words"


def words_for(query: Query, sample: int = 0) -> tuple[tuple[str, str], ...]:
    """What a good generator asks: the corpus that the question means, with the colour that only the image shows."""
    kind, colour = QUESTIONS.index(query.question), NAMES[int(query.id[1:]) % 4]
    if kind == 2:
        return ()
    ending = ("pigment", "use")[kind] if not sample else "facts"
    return ((CORPORA[kind], f"{colour} {ending}"),)


def targets(folder: Path, samples: int = 1, count: int = 24) -> Path:
    """Targets of all training and validation questions."""
    queries = [query for query in SquareTable(str(folder), count).queries() if query.split is not Split.TEST]
    rows = [SearchRow(q.id, q.split, words_for(q, sample), sample) for q in queries for sample in range(samples)]
    write_searches(folder / "targets", rows, {"by": "hand"})
    return folder / "targets"


def data(folder: Path, count: int = 24, plan: SearchPlan | None = None, **settings) -> MedragData:
    table = SquareTable(str(folder), count)
    if plan is None:
        plan = SearchPlan(targets=str(targets(folder, count=count)), written=str(folder / "written"))
    chosen = {"batch_size": 6, "eval_batch_size": 4, "cache_folder": str(folder / "evidence"), "regimes": ["retrieved", "none"]}
    return MedragData([table], [table], WordSource(), searches=plan, **{**chosen, **settings})


def reader(dropout: float = 0.0, tuned: str | None = None, **shape) -> HfReader:
    """A reader; `tuned`: a fresh adapter over the reader of that checkpoint."""
    small = {"hidden": 32, "layers": 1, "heads": 2, "vision_hidden": 32, "vision_layers": 1, "image_side_px": 32}
    base = TinyBackbone(**{**small, "vocabulary": 400, "dropout": dropout, **shape})
    return HfReader(base) if tuned is None else HfReader(TrainedBackbone(base, tuned), LORA)


ADAMW = partial(torch.optim.AdamW, lr=1e-2)


def stage(dropout: float = 0.0, optimizer=ADAMW, made_reader=None, **settings) -> QueryGenerator:
    return QueryGenerator(made_reader or reader(dropout), optimizer, CORPORA, **{"max_new_tokens": 40, **settings})
