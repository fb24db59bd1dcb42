"""A corpus of reports (with images, of two modalities) and documents (without), and questions about it; nothing is on disk."""

import hashlib

import numpy as np
from PIL import Image

from medrag_lightning.artifacts import write_json
from medrag_lightning.data.evidence import EvidenceMixture
from medrag_lightning.data.feeds import World
from medrag_lightning.data.knowledge import KnowledgePlan
from medrag_lightning.data.knowledge_conditions import KnowledgeConditions
from medrag_lightning.records import AnswerType, Candidate, Channel, Document, ImageRef, Query, Retrieved, Score, Split
from medrag_lightning.score_files import (
    IDENTITY,
    SCHEMA,
    documents_fingerprint,
    merge,
    query_fingerprint,
    to_table,
    write_shard,
)

MODALITIES = ("CT", "MR")


def vector(ref):
    """A random direction for each image."""
    seed = int.from_bytes(hashlib.sha256(str(ref).encode()).digest()[:4], "big")
    found = np.random.default_rng(seed).standard_normal(8)
    return found / np.linalg.norm(found)


def open_image(ref):
    """Two names with one stem are one picture."""
    seed = int.from_bytes(hashlib.sha256(ref.path.split(".")[0].encode()).digest()[:4], "big")
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8))


class Similar:
    """Tells cosines, and counts what it is asked."""

    def __init__(self, documents):
        self.by_id, self.calls, self.queries_asked = {d.id: d for d in documents}, 0, 0

    def similarities(self, queries, ids, channels):
        assert channels == [Channel.IMAGE_TO_IMAGE]
        self.calls, self.queries_asked = self.calls + 1, self.queries_asked + len(queries)
        rows = []
        for query, names in zip(queries, ids, strict=True):
            images = np.stack([vector(self.by_id[name].image) for name in names])
            rows.append((images @ vector(query.image)).astype(np.float32)[:, None])
        return rows

    def prepare(self, documents, open_image, folder):
        """Nothing to do."""

    def load(self, documents, open_image, folder):
        """Nothing to do."""

    def retrieve(self, queries):
        return []

    def fingerprint(self):
        return "similar"


def documents():
    """Twelve reports of six patients, and eight texts."""
    reports = [
        Document(f"r{n}", f"report {n}", ImageRef(f"r{n}.png"), f"p{n // 2}", f"s{n}", MODALITIES[n % 2]) for n in range(12)
    ]
    return [*reports, *(Document(f"t{n}", f"text {n}", source="book") for n in range(8))]


def query(n, split=Split.TRAIN, **settings):
    """A closed question of patient n about an image; every fourth question has no image."""
    chosen = {
        "image": None if n % 4 == 3 else ImageRef(f"r{2 * n}.copy" if n == 0 else f"q{n}.png"),
        "answer": ("yes", "no")[n % 2], "choices": ("yes", "no"), "answer_type": AnswerType.CLOSED,
        "split": split, "patient_id": f"p{n}", "study_id": f"s{2 * n}", "modality": MODALITIES[n % 2],
    }  # fmt: skip
    return Query(f"q{n}", "is it there?", **{**chosen, **settings})


def retrieved(queries, corpus):
    """Each query's candidates: legal reports and texts in turn, some of them twice (found in two channels)."""
    found = {}
    for place, query in enumerate(queries):
        legal = [d for d in corpus if d.patient_id is None or d.patient_id != query.patient_id]
        reports, texts = [d for d in legal if d.image], [d for d in legal if not d.image]
        chosen = [d for pair in zip(reports[place:] + reports[:place], texts, strict=False) for d in pair][:12]
        candidates = [Candidate(d, 1 - 0.01 * n, Channel.IMAGE_TO_IMAGE) for n, d in enumerate([*chosen[:1], *chosen])]
        found[query.id] = Retrieved(query.id, tuple(candidates), "made up")
    return found


def world_of(plan=None, queries=None, corpus=None, source=None, seed=0, **settings):
    """The world with eight training questions and four of validation."""
    corpus = documents() if corpus is None else corpus
    asked = queries if queries is not None else [query(n) for n in range(8)] + [query(n, Split.VAL) for n in range(8, 12)]
    made = {
        "queries": {split: [q for q in asked if q.split is split] for split in Split},
        "documents": corpus, "retrieved": retrieved(asked, corpus), "of_rival": {}, "open_image": open_image,
        "source": source or Similar(corpus), "mixture": EvidenceMixture(), "one_candidate_per_prompt": False,
        "seed": seed, "knowledge": plan or KnowledgePlan(),
    }  # fmt: skip
    return World(**{**made, **settings})


def write_table(folder, world, says, splits=("train", "val"), generates=False):
    """Scores the world's knowledge conditions as `says(query, condition)` tells: the answer, in words. Gives the folder.

    The answer of a closed question gets -0.5 nats, the others -2 and less; words of an open one are told if `generates`.
    """
    asked = [q for split in splits for q in world.queries[split] if q.choices or q.answer is not None]
    planner = KnowledgeConditions(world, asked)
    scores = []
    for one in asked:
        shown = dict.fromkeys(c for around in planner.of(one) for c in around.conditions())
        for condition in shown:
            said = says(one, condition)
            answers = one.choices or (one.answer,)
            logps = tuple(-0.5 if answer == said else -2.0 - place for place, answer in enumerate(answers))
            gold = one.gold_index if one.choices else 0
            words = None if one.choices or not generates else said
            scores.append(Score(one.id, condition, answers, logps, (2,) * len(answers), gold, words))
    write_json(folder / IDENTITY, {"schema": SCHEMA, "corpus": documents_fingerprint(world.documents), "reader": "r" * 64})
    write_shard(folder, 0, 0, to_table(scores, {one.id: query_fingerprint(one) for one in asked}))
    merge(folder)
    return folder
