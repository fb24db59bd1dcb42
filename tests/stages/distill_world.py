"""Images of four colours and reports that name a colour; a reader that believes the report, as a score table."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from toy import COLOURS, ToyTable, trainer

from medrag_lightning import score_files
from medrag_lightning.artifacts import write_json
from medrag_lightning.data.distillation_feed import DistillationPlan
from medrag_lightning.data.module import MedragData
from medrag_lightning.models.heads import QueryHeads
from medrag_lightning.models.tiny_towers import TinyTowers
from medrag_lightning.records import AnswerType, Condition, Document, Query, Score
from medrag_lightning.retrieval.source import LiveSearch
from medrag_lightning.score_files import documents_fingerprint, merge, query_fingerprint, to_table, write_shard
from medrag_lightning.stages.base import Schedule
from medrag_lightning.stages.retriever_kl import RetrieverKl

__all__ = ["ADAM", "ClosedTable", "believing", "data", "heads", "score_table", "source", "stage", "towers", "trainer"]
ADAM = partial(torch.optim.AdamW, lr=1e-2)
STEADY = Schedule("constant", 0.0)
WORDS = ["old", "film", "left", "right", "clear", "small", "large", "round", "sharp", "pale", "wide", "dense", "thin"]


class ClosedTable(ToyTable):
    """Every question closed; the answer is the image's colour. Reports say other things, too, and the colour last."""

    def queries(self) -> list[Query]:
        told = {"question": "which colour?", "choices": tuple(COLOURS), "answer_type": AnswerType.CLOSED}
        return [replace(query, **told) for query in super().queries()]

    def documents(self) -> list[Document]:
        rng = np.random.default_rng(1)
        said = [" ".join(rng.choice(WORDS, 4)) for _ in range(self.count)]
        return [replace(d, text=f"{words} {d.text.split()[-1]}") for d, words in zip(super().documents(), said, strict=True)]


def towers(seed: int = 0) -> TinyTowers:
    return TinyTowers(dim=32, hidden=16, seed=seed)


def heads(sides=("text",), seed: int = 0, **settings) -> QueryHeads:
    return QueryHeads(towers(seed), list(sides), **settings)


def source(seed: int = 0, encoder=None, count: int = 12, sides=("image", "text")) -> LiveSearch:
    channels = {f"image_to_{side}": count for side in sides}
    return LiveSearch(encoder or towers(seed), channels, distinct_documents=False)


def believing(query: Query, text: str, image_colour: int) -> list[float]:
    """Log-probabilities: 2 nats for the colour that the report names, 1 for what the image shows faintly."""
    logit = np.zeros(len(COLOURS))
    logit[list(COLOURS).index(text.split()[-1])] += 2.0
    logit[image_colour] += 0.5
    return (logit - np.log(np.exp(logit).sum())).tolist()


def score_table(path, table: ToyTable, queries=None, documents=None, reads=believing):
    """Every query with every document alone, and none."""
    queries, documents = queries or table.queries(), documents or table.documents()
    rows = [
        Score(q.id, Condition((d.id,)), q.choices, tuple(reads(q, d.text, q.gold_index)), (2,) * len(q.choices), q.gold_index)
        for q in queries
        if q.choices
        for d in documents
    ]
    corpus = documents_fingerprint(table.documents())
    write_json(path / score_files.IDENTITY, {"schema": 1, "reader": "r", "template": "t", "corpus": corpus})
    write_shard(path, 0, 0, to_table(rows, {q.id: query_fingerprint(q) for q in queries}))
    merge(path)
    return str(path)


def data(folder, table: ToyTable, scores: str | None, plan=None, search=None, **settings) -> MedragData:
    chosen = {"batch_size": 8, "eval_batch_size": 16, "cache_folder": str(folder / "evidence"), **settings}
    plan = DistillationPlan(scores, **(plan or {}))
    return MedragData([table], [table], search or source(), distillation=plan, **chosen)


def stage(made=None, optimizer=ADAM, **settings) -> RetrieverKl:
    return RetrieverKl(made or heads(), optimizer, **{"schedule": STEADY, "t_score": 0.05, **settings})
