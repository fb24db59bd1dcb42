"""What factual positives give a retriever, and how long it takes to find them.

    python scripts/bench/factual.py --reports 100000          # seconds to mine generated reports
    python scripts/bench/factual.py --data minihospital cxr roco --epochs 10 --seeds 0 1 2

The second trains small towers (`TinyTowers`) on the same split with copies alone as positives, with twins in the batch, and
with twins' texts swapped in for half of the samples, and prints recall@5 from image to text on held-out pairs: where copies
alone are right, and where factual twins are. Intervals are bootstrap over patients of the mean over seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from medrag_lightning.data.facts import LabelFacts, TermFacts, WordFacts
from medrag_lightning.data.factual_plan import FactualPlan
from medrag_lightning.data.factual_positives import FactualPositives
from medrag_lightning.data.minihospital import MiniHospital
from medrag_lightning.data.module import MedragData
from medrag_lightning.data.pair_feed import PairPlan
from medrag_lightning.data.tables import JsonlCorpus
from medrag_lightning.interfaces import FactExtractor, Table
from medrag_lightning.metrics import Bootstrap, PairRanks
from medrag_lightning.metrics.bootstrap import weighted_mean
from medrag_lightning.metrics.ranking import scores_of
from medrag_lightning.models.tiny_towers import TinyTowers
from medrag_lightning.records import Document
from medrag_lightning.retrieval.source import NoEvidence
from medrag_lightning.stages.base import Schedule
from medrag_lightning.stages.retriever_contrastive import RetrieverContrastive

MODES = {"copies": (False, 0.0), "twins": (True, 0.0), "twins, half swapped": (True, 0.5), "half swapped": (False, 0.5)}
TERMS = 2000  # of generated reports, the n-th of which is said 1/n as often as the first


def main(argv: Sequence[str] | None = None) -> None:
    """Prints what was asked for, and one JSON line."""
    os.environ.setdefault("MEDRAG_DATA", str(Path(__file__).resolve().parents[3] / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=0, help="generated reports to mine; 0 for none")
    parser.add_argument("--data", nargs="*", default=[], choices=["minihospital", "cxr", "roco"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--patients", type=int, default=1152, help="of the mini-hospital")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--folder", default="runs/minihospital", help="of the mini-hospital's images")
    asked = parser.parse_args(argv)
    told: dict[str, Any] = {}
    if asked.reports:
        told["mining"] = _mine(asked.reports)
    for name in asked.data:
        told[name] = _compare(name, asked)
    print(json.dumps(told))


def _mine(count: int) -> dict[str, Any]:
    """Seconds to read the facts of generated reports and to find their positives."""
    rng = np.random.default_rng(0)
    names = ["".join(chr(97 + (n // 26**k) % 26) for k in range(4)) for n in range(TERMS)]
    share = 1 / np.arange(1, TERMS + 1)
    terms = rng.choice(TERMS, (count, 8), p=share / share.sum())
    sizes, denials = rng.integers(3, 9, count), rng.random((count, 8)) < 0.4
    documents = []
    for number in range(count):
        said = [f"{'no ' if denials[number, k] else ''}{names[terms[number, k]]}." for k in range(sizes[number])]
        documents.append(Document(f"r{number}", " ".join(said), patient_id=f"p{number // 2}"))
    began = time.perf_counter()
    facts = TermFacts({name: [] for name in names}).facts(documents)
    read = time.perf_counter() - began
    began = time.perf_counter()
    found = FactualPositives(documents, facts, threshold=0.75, min_facts=2)
    joined = time.perf_counter() - began
    told = found.statistics()
    draw = time.perf_counter()
    for place in range(min(1000, count)):
        found.draw(place, rng)
    each = time.perf_counter() - draw
    seconds = {
        "read_seconds": round(read, 2),
        "join_seconds": round(joined, 2),
        "draw_microseconds": round(each / min(1000, count) * 1e6, 1),
    }
    print(f"{count:,} reports, {told['different_sets']:,} different sets: read {read:.1f} s, joined {joined:.1f} s")
    return {**told, **seconds}


def _compare(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    ranks: dict[str, list[tuple[PairRanks, PairRanks]]] = {mode: [] for mode in asked.modes}
    for seed in asked.seeds:
        for mode in asked.modes:
            ranks[mode].append(_fit(name, mode, seed, asked))
    told: dict[str, Any] = {}
    for kind, place in (("copies right", 0), ("twins right", 1)):
        scores = {mode: [scores_of(one[place], "image_to_text")["recall@5"] for one in found] for mode, found in ranks.items()}
        clusters = ranks[asked.modes[0]][0][place].cluster_N
        told[kind] = {mode: _interval(values, clusters) for mode, values in scores.items()}
        base = scores[asked.modes[0]]
        for mode in asked.modes[1:]:
            gaps = [mine - first for mine, first in zip(scores[mode], base, strict=True)]
            told[kind][f"{mode} - {asked.modes[0]}"] = _interval(gaps, clusters)
    for kind, row in told.items():
        for mode, (value, low, high) in row.items():
            print(f"{name}, {kind}: {mode}: recall@5 {value:.3f} [{low:.3f}, {high:.3f}]")
    return {"pairs": len(ranks[asked.modes[0]][0][0]), **told}


def _interval(values: Sequence[np.ndarray[Any, np.dtype[np.float64]]], clusters: Sequence[str]) -> list[float]:
    metric = Bootstrap().metric(weighted_mean(np.mean(np.stack(values), axis=0)), clusters)
    return [round(number, 4) for number in (metric.value, metric.low, metric.high)]


def _fit(name: str, mode: str, seed: int, asked: argparse.Namespace) -> tuple[PairRanks, PairRanks]:
    """Ranks of the test pairs after training: copies right, and twins right."""
    table, extractor, threshold = _world(name, asked)
    in_batch, swap = MODES[mode]
    L.seed_everything(seed, verbose=False)
    factual = FactualPlan(extractor, threshold, 2, in_batch, swap)
    shares = (0.1, 0.2) if name == "minihospital" else (0.1, 0.3)
    data = MedragData(
        [table],
        [table],
        NoEvidence(),
        batch_size=64,
        eval_batch_size=64,
        seed=seed,
        pairs=PairPlan(*shares, factual=factual),
    )
    optimizer = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1, betas=(0.9, 0.98))
    stage = RetrieverContrastive(TinyTowers(), optimizer, Schedule("cosine", warmup_share=0.1), seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        run = L.Trainer(
            accelerator="cpu",
            max_epochs=asked.epochs,
            default_root_dir=folder,
            limit_val_batches=0,
            **quiet,  # type: ignore[arg-type]
        )
        began = time.perf_counter()
        run.fit(stage, datamodule=data)
        print(f"{name}, {mode}, seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
        run.test(stage, datamodule=data, verbose=False)
    return stage.rankings["trained"], stage.factual_rankings["trained"]


def _world(name: str, asked: argparse.Namespace) -> tuple[Table, FactExtractor, float]:
    """The pairs, what tells their facts, and the threshold."""
    if name == "minihospital":
        return MiniHospital(seed=1, size=asked.patients, folder=asked.folder, reports="sparse"), WordFacts(), 0.75
    data = Path(os.environ["MEDRAG_DATA"])
    if name == "cxr":
        return JsonlCorpus(str(data / "cxr_pairs/corpus.jsonl"), fields={"patient_id": "patient"}), TermFacts(), 0.75
    file = str(data / "roco_pairs/corpus.jsonl")
    return JsonlCorpus(file, splits=["train", "val"]), LabelFacts(file, ["cuis"]), 0.65


if __name__ == "__main__":
    main()
