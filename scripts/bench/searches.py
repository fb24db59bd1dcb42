"""How often searches find the gold document in the mini-hospital's five corpora, without any query generator and with.

    python scripts/bench/searches.py                                        three worlds, seeds 0, 1 and 2
    python scripts/bench/searches.py --tables sft=runs/sft-seed{seed} dpo=runs/dpo-seed{seed}

Test questions that a text answers; gold hit@2: the gold text is among the first two of the corpus that holds it. Rows:

- ``question``: every corpus is asked with the question itself, by BM25 and by the graph's term lookup;
- ``clip``: by a dual encoder that was trained on the hospital's image-report pairs (stage `retriever_contrastive`), image to
  text and text to text in each corpus, fused by reciprocal rank (HeteroRAG's ablation "CLIP i2t + t2t");
- ``best wording``: the words that the makers of this world know to find it, with the entity that the image shows: the most
  that a query generator can reach;
- each of ``--tables``, a folder of searches (`search_files`) by a name of your choice.

Means over worlds, which count alike by their questions; 95 % bootstrap intervals over entities, and paired differences to the
row before. The last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from medrag_lightning.data.images import ImageStore
from medrag_lightning.data.minihospital import MiniHospital
from medrag_lightning.data.minihospital_corpora import CORPORA, best_searches
from medrag_lightning.data.minihospital_texts import TEXT_NEEDS, is_text
from medrag_lightning.interfaces import CandidateSource
from medrag_lightning.metrics.search_hits import hit_at
from medrag_lightning.models.tiny_towers import TinyTowers
from medrag_lightning.models.trained_encoder import TrainedEncoder
from medrag_lightning.records import Query, Split
from medrag_lightning.retrieval.corpus_search import CorpusSearch
from medrag_lightning.retrieval.graph import GraphSearch
from medrag_lightning.retrieval.hybrid import HybridSearch
from medrag_lightning.retrieval.lexical import LexicalSearch
from medrag_lightning.retrieval.source import LiveSearch
from medrag_lightning.search_files import read_searches

sys.path.insert(0, str(Path(__file__).parent))
from over_seeds import cell, interval, launch, over  # type: ignore[import-not-found]

TOP, DEPTH = 2, 50
ALL = "all"


@dataclass(frozen=True)
class World:
    """One hospital, the questions that are asked of it, and the entity of each, which the bootstrap draws together."""

    hospital: MiniHospital
    queries: list[Query]
    entities: list[str]


def world(seed: int, size: int, folder: Path, split: Split = Split.TEST) -> World:
    """The hospital of a seed and its questions of a split that a text answers."""
    hospital = MiniHospital(seed, size, str(folder / "images"), texts=True, corpora="five")
    asked = [query for query in hospital.queries() if query.split is split and query.need in TEXT_NEEDS]
    asked = [query for query in asked if any(map(is_text, query.relevant_ids))]
    entity_of = {study.id: study.patient.entity.name for study in hospital.studies}
    return World(hospital, asked, [f"{seed} {entity_of[str(query.study_id)]}" for query in asked])


def trained_encoder(seed: int, size: int, folder: Path, more: Sequence[str]) -> TrainedEncoder:
    """TinyTowers after stage `retriever_contrastive` on the reports of the hospital; trained once."""
    place = folder / f"encoder-seed{seed}"
    found = sorted(place.glob("checkpoints/best*.ckpt"))
    if not found:
        init = {"seed": seed, "size": size, "folder": str(folder / "images"), "texts": True, "corpora": "five"}
        tables = [{"class_path": "medrag_lightning.data.minihospital.MiniHospital", "init_args": init}]
        given = folder / f"world-seed{seed}.yaml"
        given.parent.mkdir(parents=True, exist_ok=True)
        given.write_text(yaml.safe_dump({"data": {"init_args": {"tables": tables, "corpus": tables}}}), encoding="utf-8")
        told = ["-c", "data/minihospital_five", "-c", "stages/retriever_contrastive", "-c", str(given)]
        told += ["--trainer.default_root_dir", str(place), "--seed_everything", str(seed), "--test_after_fit", "false"]
        launch(["fit", *told, *more], place)
        found = sorted(place.glob("checkpoints/best*.ckpt"))
    return TrainedEncoder(TinyTowers(), str(found[0]))


def by_words() -> CorpusSearch:
    """BM25 in each corpus of texts, and the graph's lookup of terms."""
    parts: dict[str, CandidateSource] = {name: LexicalSearch(TOP, corpus=name) for name in CORPORA if name != "graph"}
    return CorpusSearch({**parts, "graph": GraphSearch(TOP, blocks="whole", corpus="graph")})


def by_vectors(encoder: TrainedEncoder) -> CorpusSearch:
    """Image to text and text to text in each corpus, fused."""
    parts: dict[str, CandidateSource] = {}
    for name in CORPORA:
        channels = {channel: LiveSearch(encoder, {channel: DEPTH}) for channel in ("image_to_text", "text_to_text")}
        parts[name] = HybridSearch(dict(channels), TOP)
    return CorpusSearch(parts)


def hits(one: World, source: CorpusSearch, queries: Sequence[Query]) -> list[float]:
    """1 for each of the world's questions whose gold text the `queries`, one each, find among the first two of a corpus."""
    found = []
    for query, told in zip(one.queries, source.retrieve(queries), strict=True):
        ids = {name: [c.id for c in told.candidates if c.corpus == name] for name in CORPORA}
        found.append(float(hit_at(ids, [name for name in query.relevant_ids if is_text(name)], TOP)))
    return found


def rows(seed: int, asked: argparse.Namespace) -> tuple[World, dict[str, list[float]]]:
    """The hits of every row in the world of a seed."""
    one = world(seed, asked.size, asked.folder)
    texts = [document for document in one.hospital.documents() if document.image is None]
    words, vectors = by_words(), by_vectors(trained_encoder(seed, asked.size, asked.folder, asked.more))
    for name, source in (("words", words), ("vectors", vectors)):
        place = texts, ImageStore(one.hospital.roots()), asked.folder / f"{name}-seed{seed}"
        source.prepare(*place)
        source.load(*place)
    entity_of = {study.id: study.patient.entity for study in one.hospital.studies}
    best = [
        dataclasses.replace(query, searches=best_searches(query.question, entity_of[str(query.study_id)]))
        for query in one.queries
    ]
    told = {"question": hits(one, words, one.queries), "clip": hits(one, vectors, one.queries)}
    for name, folder in asked.tables.items():
        found = read_searches(folder.format(seed=seed)).by_query()
        told[name] = hits(one, words, [dataclasses.replace(q, searches=found[q.id].searches) for q in one.queries])
    return one, told | {"best wording": hits(one, words, best)}


def report(worlds: Sequence[World], told: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """Prints hit@2 of every row by need and in all; gives the figures with those of the differences to the row before."""
    needs = np.array([query.need for one in worlds for query in one.queries])
    units = [name for one in worlds for name in one.entities]
    figures: dict[str, Any] = {"questions": len(units), "entities": len(set(units)), "worlds": len(worlds)}
    before = None
    for row in told[0]:
        hit_N = np.array([value for one in told for value in one[row]])
        figures[row] = {}
        for need in (*TEXT_NEEDS, ALL):
            counted_N = np.ones(len(units)) if need == ALL else (needs == need).astype(np.float64)
            value = interval(over(hit_N * counted_N, counted_N), units)
            gain = None if before is None else interval(over((hit_N - before) * counted_N, counted_N), units)
            figures[row][need] = {"hit@2": value, "above the row before": gain}
            print(f"{row:14} {need:16} {cell(value)}   {cell(gain, signed=True)}")
        before = hit_N
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table, then the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the worlds")
    parser.add_argument("--size", type=int, default=1152, help="patients of a world")
    parser.add_argument("--folder", type=Path, default=Path("runs/searches"))
    parser.add_argument("--tables", nargs="*", default=[], metavar="NAME=FOLDER", help="more rows; FOLDER may hold {seed}")
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="arguments of the encoder's fit; stands last")
    asked = parser.parse_args(argv)
    if unnamed := [one for one in asked.tables if "=" not in one]:
        parser.error(f"--tables wants NAME=FOLDER, got {unnamed[0]!r}")
    asked.tables = dict(one.split("=", 1) for one in asked.tables)
    measured = [rows(seed, asked) for seed in asked.seeds]
    print(json.dumps(report([one for one, _ in measured], [told for _, told in measured])))


if __name__ == "__main__":
    main()
