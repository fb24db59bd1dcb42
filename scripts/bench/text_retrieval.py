"""Searching texts: PubMedQA and MedQuAD questions against all 29,000 real texts of MEDRAG_DATA, whose right texts are known.

Rows, on the same texts and questions: TF-IDF of scikit-learn (the floor: sublinear, English stop words), BM25 (LexicalSearch),
hybrid (HybridSearch of BM25 and the tiny encoder's vectors), hybrid and re-rank (WordReranker). A text that says the same as
the right one, word for word, is right, too. R@1, R@5, R@10 and MRR (0 beyond the first 50) with 95 % bootstrap intervals, and
paired differences to the floor; MedQuAD's questions are resampled by the entity that they ask about.

Nothing is chosen on a question that it is measured on: constants of BM25 are Anserini's; the weight of the tiny encoder and the
re-ranker are fitted five times, on four fifths of the questions (whole entities) of both sets, and answer the last fifth.

Titles are left out of the texts, as the floor was measured (MedQuAD's title is the answer's entity); `--titles` puts them in.
The last line is JSON.

    MEDRAG_DATA=... python scripts/bench/text_retrieval.py
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from medrag_lightning.interfaces import CandidateSource
from medrag_lightning.metrics.bootstrap import Bootstrap, weighted_mean
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.records import Document, ImageRef, Query
from medrag_lightning.retrieval.hybrid import HybridSearch
from medrag_lightning.retrieval.lexical import LexicalSearch
from medrag_lightning.retrieval.reranked import RerankedSearch
from medrag_lightning.retrieval.source import LiveSearch
from medrag_lightning.retrieval.word_reranker import FEATURES
from medrag_lightning.retrieval.word_reranker_fit import RerankExample, fit_word_reranker
from medrag_lightning.retrieval.words import WordSettings

CORPORA = ("disease_ontology", "medquad", "pubmed", "radiology_captions", "textbook")
DEPTH, FOLDS, TIMED = 50, 5, 100
WEIGHTS = (1.0, 0.3, 0.1, 0.03, 0.01)
ROWS = ("tfidf", "bm25", "dense", "hybrid", "hybrid_reranked")
MEASURES = ("R@1", "R@5", "R@10", "MRR")


@dataclass(frozen=True)
class Question:
    """A question, the set it is from, what it is resampled with, and the texts that are right."""

    query: Query
    name: str
    group: str
    right: frozenset[str]

    @property
    def fold(self) -> int:
        """The fifth that it is measured in; whole groups stay together."""
        return zlib.crc32(self.group.encode()) % FOLDS


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def read(root: Path, titles: bool, most: int | None) -> tuple[list[Document], list[Question]]:
    """All texts, and the questions of both sets (`most` of each set, evenly)."""
    texts = [row for name in CORPORA for row in rows_of(root / "text" / f"{name}.jsonl")]
    documents = [
        Document(
            row["id"], f"{row['title']}: {row['text']}" if titles else row["text"], source=row["corpus"], license=row["license"]
        )
        for row in texts
    ]
    same: dict[str, set[str]] = defaultdict(set)
    for document in documents:
        same[document.text].add(document.id)
    right = {document.id: frozenset(same[document.text]) for document in documents}
    asked = [
        ("pubmedqa", row["id"], row["question"], row["gold_doc"], row["id"]) for row in rows_of(root / "text/pubmedqa_qa.jsonl")
    ]
    asked += [
        ("medquad", f"q-{row['id']}", row["question"], row["id"], row["title"]) for row in texts if row["corpus"] == "medquad"
    ]
    questions: list[Question] = []
    for name in ("pubmedqa", "medquad"):
        mine = [Question(Query(key, text), name, group, right[gold]) for kind, key, text, gold, group in asked if kind == name]
        questions += mine[:: max(1, len(mine) // most)] if most else mine
    return documents, questions


def no_images(ref: ImageRef) -> Image.Image:
    """There are none."""
    raise ValueError(f"{ref}: texts have no images")


def ready(source: CandidateSource, documents: Sequence[Document], folder: Path) -> tuple[Any, float]:
    """The source over the texts, and the seconds that it took."""
    started = time.perf_counter()
    source.prepare(documents, no_images, folder)
    source.load(documents, no_images, folder)
    return source, time.perf_counter() - started


def first_places(source: CandidateSource, questions: Sequence[Question]) -> NDArray[np.int64]:
    """The place of each question's first right text among its candidates, from 1; 0 where there is none."""
    found = source.retrieve([question.query for question in questions])
    places = [
        next((at for at, candidate in enumerate(one.candidates, 1) if candidate.id in question.right), 0)
        for question, one in zip(questions, found, strict=True)
    ]
    return np.array(places, np.int64)


def floor_places(documents: Sequence[Document], questions: Sequence[Question]) -> NDArray[np.int64]:
    """The same by TF-IDF of scikit-learn."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    made = TfidfVectorizer(sublinear_tf=True, stop_words="english")
    texts = made.fit_transform([document.text for document in documents])
    ids = [document.id for document in documents]
    places = []
    for start in range(0, len(questions), 256):
        part = questions[start : start + 256]
        scores = (made.transform([one.query.question for one in part]) @ texts.T).toarray()
        order = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
        for question, row in zip(part, order, strict=True):
            places.append(next((at for at, number in enumerate(row, 1) if ids[number] in question.right), 0))
    return np.array(places, np.int64)


def values_of(places: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Each measure of each question."""
    found = places > 0
    told = {f"R@{k}": (found & (places <= k)).astype(np.float64) for k in (1, 5, 10)}
    return told | {"MRR": np.where(found, 1 / np.maximum(places, 1), 0.0)}


def out_of_fold(
    documents: Sequence[Document], questions: Sequence[Question], parts: dict[str, Any]
) -> tuple[dict[str, NDArray[np.int64]], Any, list[float]]:
    """Places by hybrid, and by hybrid and re-rank, each question answered by what never saw it; a fitted one; its weights."""
    hybrids = {weight: HybridSearch(parts, DEPTH, weights={"meaning": weight}) for weight in WEIGHTS}
    places = {weight: first_places(hybrid, questions) for weight, hybrid in hybrids.items()}
    text_of = {document.id: document.text for document in documents}
    fold_of = np.array([question.fold for question in questions])
    told = {name: np.zeros(len(questions), np.int64) for name in ("hybrid", "hybrid_reranked")}
    chosen = []
    for fold in range(FOLDS):
        train, test = np.flatnonzero(fold_of != fold).tolist(), np.flatnonzero(fold_of == fold).tolist()
        best = max(WEIGHTS, key=lambda weight: float(values_of(places[weight][train])["MRR"].mean()))
        chosen.append(best)
        hybrid = hybrids[best]
        taught = [questions[at] for at in train]
        pools = [[c.id for c in one.candidates] for one in hybrid.retrieve([one.query for one in taught])]
        examples = [
            RerankExample(one.query.question, tuple(text_of[i] for i in ids), tuple(i in one.right for i in ids))
            for one, ids in zip(taught, pools, strict=True)
        ]
        reranker = fit_word_reranker(examples, list(text_of.values()), parts["words"].words)
        source = RerankedSearch(hybrid, reranker, keep=DEPTH, candidates=DEPTH)
        told["hybrid"][test] = places[best][test]
        told["hybrid_reranked"][test] = first_places(source, [questions[at] for at in test])
        print(f"fold {fold}: {len(train)} questions to fit on, {len(test)} to measure, weight {best}", flush=True)
    return told, source, chosen


def milliseconds(name: str, source: CandidateSource, questions: Sequence[Question]) -> dict[str, float]:
    """Median time of one question, asked alone, and of the processor, which other jobs on the machine spoil less."""
    asked = [question.query for question in questions[:: max(1, len(questions) // TIMED)]][:TIMED]
    wall, processor = [], []
    for query in [asked[0], *asked]:
        started, before = time.perf_counter(), time.process_time()
        source.retrieve([query])
        wall.append(1000 * (time.perf_counter() - started))
        processor.append(1000 * (time.process_time() - before))
    both = {"query_ms": wall, "query_cpu_ms": processor}
    return {f"{key}_{name}": round(float(np.median(spent[1:])), 2) for key, spent in both.items()}


def report(name: str, questions: Sequence[Question], places: dict[str, NDArray[np.int64]]) -> dict[str, Any]:
    """Every measure of every row with its interval, and its paired difference to the floor."""
    mine = [at for at, question in enumerate(questions) if question.name == name]
    groups = [questions[at].group for at in mine]
    values = {row: values_of(found[mine]) for row, found in places.items()}
    bootstrap = Bootstrap()
    told: dict[str, Any] = {"questions": len(mine)}
    for row, measured in values.items():
        told[row] = {}
        for measure in MEASURES:
            one = bootstrap.metric(weighted_mean(measured[measure]), groups)
            gain = bootstrap.metric(weighted_mean(measured[measure] - values["tfidf"][measure]), groups)
            told[row][measure] = [round(number, 4) for number in (one.value, one.low, one.high)]
            told[row][f"{measure}_gain"] = [round(number, 4) for number in (gain.value, gain.low, gain.high)]
        shown = "  ".join(f"{m} {told[row][m][0]:.3f} [{told[row][m][1]:.3f}, {told[row][m][2]:.3f}]" for m in MEASURES)
        print(f"{name:9} {row:16} {shown}", flush=True)
    return told


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; `root` is MEDRAG_DATA."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--titles", action="store_true", help="texts begin with their titles")
    parser.add_argument("--most", type=int, help="only about so many questions of each set")
    parser.add_argument("--stemmer", choices=("english", "none"), default="english")
    parser.add_argument("--dim", type=int, default=256, help="of the tiny encoder's vectors")
    chosen = parser.parse_args(argv)
    if "MEDRAG_DATA" not in os.environ:
        parser.error("MEDRAG_DATA is not set: name the data folder")
    chosen.root = Path(os.environ["MEDRAG_DATA"])
    return chosen


def main(argv: Sequence[str] | None = None) -> None:
    """Runs every row and prints one line of JSON last."""
    chosen = options(argv)
    documents, questions = read(chosen.root, chosen.titles, chosen.most)
    print(f"{len(documents)} texts, {len(questions)} questions, {torch.get_num_threads()} threads", flush=True)
    told: dict[str, Any] = {"texts": len(documents), "titles": chosen.titles, "threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as scratch:
        words, lexical_seconds = ready(
            LexicalSearch(DEPTH, WordSettings(stemmer=chosen.stemmer)), documents, Path(scratch) / "words"
        )
        dense = LiveSearch(TinyDualEncoder(chosen.dim), {"text_to_text": DEPTH})
        meaning, dense_seconds = ready(dense, documents, Path(scratch) / "meaning")
        places = {
            "tfidf": floor_places(documents, questions),
            "bm25": first_places(words, questions),
            "dense": first_places(meaning, questions),
        }
        fitted, source, weights = out_of_fold(documents, questions, {"words": words, "meaning": meaning})
        told |= {"index_seconds_bm25": round(lexical_seconds, 1), "index_seconds_dense": round(dense_seconds, 1)}
        sources = {"bm25": words, "dense": meaning, "hybrid": source.pool, "hybrid_reranked": source}
        for name, one in sources.items():
            told |= milliseconds(name, one, questions)
        told |= milliseconds("hybrid_reranked_10", RerankedSearch(source.pool, source.reranker), questions)
        told["hybrid_weights"] = weights
        told["reranker"] = dict(zip(FEATURES, (round(w, 3) for w in source.reranker.told["weights"]), strict=True))
    places |= fitted
    for name in ("pubmedqa", "medquad"):
        told[name] = report(name, questions, places)
    best = {name: told[name]["hybrid_reranked"] for name in ("pubmedqa", "medquad")}
    told["beats_floor"] = best["pubmedqa"]["R@1_gain"][1] > 0 and best["medquad"]["R@10_gain"][1] > 0
    print(json.dumps(told))


if __name__ == "__main__":
    main()
