"""One retriever for each modality against one for all of them, and what it costs to send a query to the wrong one (H09, H11).

    MEDRAG_DATA=../shared/data python scripts/bench/routes.py --data minihospital radiology figures

Each world's image-text pairs are split once, a quarter of every modality (by patient, study, image and text) held out for the
test. For each seed there are three kinds of models, all `TinyTowers` of equal size, learnt with CLIP loss, AdamW and cosine
schedule as in configs/stages/retriever_contrastive.yaml, width 128, batches of 64, texts cut at 240 letters, last weights kept:

    modality models   one a modality, S steps each, on pairs of its modality alone
    mixed, S steps    one on the pairs of all modalities, for as many steps as a single modality model had
    mixed, M x S      one on all, for as many steps as the M modality models had together

Told: image to text R@5 among the different texts of the modality's own test pairs, and among those of all modalities; the wrong
model in the right pool; the routers' accuracy on test images; and the share of test images whose text `RoutedSearch` finds
among 5, given, predicted (`LinearRouter`) and sent to the next modality. A number is the mean over seeds, its interval a
percentile bootstrap over patients (studies, images) of that mean. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medrag_lightning.artifacts import counter_rng
from medrag_lightning.batches import PairBatch
from medrag_lightning.data.feeds import World
from medrag_lightning.data.images import ImageStore
from medrag_lightning.data.minihospital import MiniHospital
from medrag_lightning.data.pair_feed import PairFeed, PairPlan
from medrag_lightning.data.sampler import SampleKey
from medrag_lightning.data.tables import JsonlCorpus
from medrag_lightning.interfaces import OpenImage, Table
from medrag_lightning.losses import contrastive_loss
from medrag_lightning.metrics import rank_pairs
from medrag_lightning.models.linear_router import LinearRouter
from medrag_lightning.models.prompt_router import PromptRouter
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.models.tiny_towers import TinyTowers
from medrag_lightning.records import Document, Query
from medrag_lightning.retrieval.routed import RoutedSearch
from medrag_lightning.retrieval.source import LiveSearch
from medrag_lightning.stages.base import Schedule
from medrag_lightning.stages.pair_vectors import PairCollator, PairVectors

sys.path.insert(0, str(Path(__file__).parent))
from over_seeds import ROOT, cell, interval, over  # type: ignore[import-not-found]

BATCH, DEPTH, DIM, MAX_CHARS = 64, 5, 128, 240
MODALITIES = {
    "minihospital": ["x-ray", "ct", "ultrasound"],
    "radiology": ["X-ray", "CT", "MRI"],
    "figures": ["X-ray", "CT", "textbook figure"],
}
Hits = NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """A world: training and test pairs as a tiny encoder's inputs, and the modality of each test pair."""

    modalities: list[str]
    train: PairBatch
    test: PairBatch
    of_test_N: NDArray[np.str_]
    open_image: OpenImage


def read(name: str, held_out: float, scratch: Path) -> Pairs:
    """The pairs of a world."""
    tables = _tables(name, scratch)
    documents = [document for table in tables for document in table.documents()]
    open_image = ImageStore(sorted({root for table in tables for root in table.roots()}))
    plan = PairPlan(val_size=1, test_share=held_out, modality=MODALITIES[name], per_modality=True, max_text_chars=MAX_CHARS)
    told: dict[str, Any] = dict.fromkeys(field.name for field in fields(World))
    feed = PairFeed(World(**told | {"documents": documents, "open_image": open_image, "seed": 0}), plan, None)
    collate = PairCollator(TinyTowers(DIM))
    learnt, judged = (
        collate([items[[SampleKey(0, place)]][0] for place in range(len(items))]) for items in (feed.training(), *feed.test())
    )
    of_test = np.array([document.modality for document in judged.documents])
    return Pairs(MODALITIES[name], learnt, judged, of_test, open_image)


def _tables(name: str, scratch: Path) -> list[Table]:
    if name == "minihospital":
        return [MiniHospital(seed=1, folder=str(scratch / "minihospital"))]
    root = os.environ["MEDRAG_DATA"]
    tables: list[Table] = [
        JsonlCorpus(f"{root}/cxr_pairs/corpus.jsonl", fields={"patient_id": "patient"}),
        JsonlCorpus(f"{root}/roco_pairs/corpus.jsonl", splits=["train", "val"]),
    ]
    return tables + ([JsonlCorpus(f"{root}/textbook_figures/corpus.jsonl")] if name == "figures" else [])


def part(batch: PairBatch, rows: NDArray[np.int64]) -> PairBatch:
    """Some pairs of a batch."""
    at = torch.from_numpy(rows)
    longest = int((batch.text["weights"][at] != 0).sum(dim=1).max())
    text = {key: value[at, :longest] for key, value in batch.text.items()}
    images = {key: value[at] for key, value in batch.image.items()}
    return PairBatch(tuple(batch.documents[row] for row in rows), images, text, batch.key_B2[at], batch.fact_BF[at])


def train(pairs: Pairs, modalities: Sequence[str], steps: int, seed: int) -> TinyTowers:
    """Towers that have learnt from the training pairs of some modalities."""
    mine = np.flatnonzero([document.modality in modalities for document in pairs.train.documents])
    torch.manual_seed(seed)
    towers, log_scale = TinyTowers(DIM, DIM, seed=seed).train(), torch.nn.Parameter(torch.tensor(-np.log(0.07)))
    weights = [*towers.parameters(), log_scale]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.1, betas=(0.9, 0.98))
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: Schedule().factor(step, steps))
    order: list[int] = []
    for step in range(steps):
        if len(order) < min(BATCH, len(mine)):
            order = counter_rng(seed, "routes", step).permutation(mine).tolist()
        batch, order = part(pairs.train, np.array(order[:BATCH])), order[BATCH:]
        vectors = towers.image_vectors(batch.image), towers.text_vectors(batch.text)
        loss = contrastive_loss("clip", *vectors, batch.key_B2, log_scale)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        falling.step()
        with torch.no_grad():
            log_scale.clamp_(max=-np.log(0.01))
    return towers.eval().requires_grad_(False)


def recalls(pairs: Pairs, encoder: TinyTowers) -> dict[str, Hits]:
    """For each test image whether its text is among the first 5 of its modality's texts, and of all."""
    vectors = PairVectors.of(pairs.test, encoder)
    own = np.zeros(len(pairs.of_test_N))
    for name in pairs.modalities:
        rows = pairs.of_test_N == name
        told = (vectors.image_ND[rows], vectors.text_ND[rows], vectors.key_N2[rows])
        own[rows] = rank_pairs(*told, ["-"] * int(rows.sum())).rank_N["image_to_text"] <= DEPTH
    return {"own pool": own, "mixed pool": (vectors.ranks().rank_N["image_to_text"] <= DEPTH).astype(np.float64)}


class Taught:
    """A router that has learnt from the training pairs, and learns nothing from the texts that are searched."""

    def __init__(self, router: LinearRouter) -> None:
        self.router, self.modalities, self.fingerprint = router, router.modalities, router.fingerprint

    def prepare(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Nothing."""

    def load(self, documents: Sequence[Document], open_image: OpenImage, folder: Path) -> None:
        """Nothing."""


def searched(pairs: Pairs, source: Any, queries: Sequence[Query], folder: Path) -> Hits:
    """For each test image whether a source finds its text (or that of a copy of the image) among the test texts."""
    texts = [Document(f"text-{d.id}", d.text, modality=d.modality) for d in pairs.test.documents]
    source.prepare(texts, pairs.open_image, folder)
    source.load(texts, pairs.open_image, folder)
    image_N, text_N = pairs.test.key_B2.numpy().T
    text_of = {document.id: key for document, key in zip(texts, text_N.tolist(), strict=True)}
    right = [set(text_N[image_N == key].tolist()) for key in image_N]
    found = source.retrieve(queries)
    return np.array([any(text_of[c.id] in r for c in one.candidates) for one, r in zip(found, right, strict=True)], float)


def run(pairs: Pairs, steps: int, seed: int, router: LinearRouter, scratch: Path) -> dict[str, Hits]:
    """Every row of one seed: a number for each test image."""
    count = len(pairs.modalities)
    single = {name: train(pairs, [name], steps, seed) for name in pairs.modalities}
    mixed = {f"mixed, {total} steps": train(pairs, pairs.modalities, total, seed) for total in (steps, count * steps)}
    rows: dict[str, Hits] = {}
    told = {name: recalls(pairs, encoder) for name, encoder in single.items()}
    for pool in ("own pool", "mixed pool"):
        rows[f"modality models, {pool}"] = sum(told[n][pool] * (pairs.of_test_N == n) for n in told)
        for name, encoder in mixed.items():
            rows[f"{name}, {pool}"] = recalls(pairs, encoder)[pool]
    wrong = [told[n]["own pool"] * (pairs.of_test_N != n) for n in told]
    rows["wrong model, own pool"] = sum(wrong) / (count - 1)
    rows |= routed(pairs, single, router, scratch)
    for name, encoder in mixed.items():
        source = LiveSearch(encoder, {"image_to_text": DEPTH}, distinct_texts=True)
        rows[f"search: {name}"] = searched(pairs, source, queries_of(pairs), scratch / name.replace(" ", ""))
    prompts = PromptRouter(encoder)
    prompts.load(pairs.test.documents, pairs.open_image, scratch)
    images = [pairs.open_image(document.image) for document in pairs.test.documents if document.image]
    for name, one in (("linear", router), ("prompts", prompts)):
        rows[f"router: {name}"] = (np.array([n for n, _ in one.modalities(images)]) == pairs.of_test_N).astype(float)
    return rows


def routed(pairs: Pairs, single: dict[str, TinyTowers], router: LinearRouter, scratch: Path) -> dict[str, Hits]:
    """What `RoutedSearch` finds: to the given, the predicted, the next modality, and by all parts in turn."""
    queries = queries_of(pairs)
    following = dict(zip(pairs.modalities, [*pairs.modalities[1:], pairs.modalities[0]], strict=True))
    lost = [replace(query, modality=None) for query in queries]
    sent = [replace(query, modality=following[query.modality or ""]) for query in queries]
    names = {name: name.replace(" ", "_") for name in single}
    of = {part: [name] for name, part in names.items()}
    parts = {names[n]: LiveSearch(one, {"image_to_text": DEPTH}, distinct_texts=True) for n, one in single.items()}
    given, everywhere = RoutedSearch(dict(parts), of=of), RoutedSearch(dict(parts), other="all", of=of)
    predicted = RoutedSearch(dict(parts), "predicted", Renamed(router, names), of=of)
    asked: list[tuple[str, Any, list[Query]]] = [("given", given, queries), ("predicted", predicted, queries)]
    asked += [("wrong", given, sent), ("unknown, all parts in turn", everywhere, lost)]
    return {f"search: {name}": searched(pairs, source, some, scratch / "routed") for name, source, some in asked}


class Renamed(Taught):
    """The same with the names of the parts, which are those of folders."""

    def __init__(self, router: LinearRouter, names: dict[str, str]) -> None:
        super().__init__(router)
        self.modalities = lambda images: [(names[name], sure) for name, sure in router.modalities(images)]


def queries_of(pairs: Pairs) -> list[Query]:
    """A question for each test image."""
    return [Query(f"ask-{d.id}", "", d.image, modality=d.modality) for d in pairs.test.documents]


def report(name: str, pairs: Pairs, seeds: Sequence[dict[str, Hits]]) -> dict[str, Any]:
    """Prints a world's table, and gives its figures."""
    units = PairVectors.of(pairs.test, TinyTowers(DIM)).cluster_N
    told: dict[str, Any] = {}
    counts = {one: int((pairs.of_test_N == one).sum()) for one in pairs.modalities}
    learnt = {one: sum(d.modality == one for d in pairs.train.documents) for one in pairs.modalities}
    print(f"\n### {name}: test pairs {counts}, training pairs {learnt}\n\n| row | all | {' | '.join(pairs.modalities)} |")
    print("|---|---|" + "---|" * len(counts))
    value = {row: np.mean([one[row] for one in seeds], axis=0) for row in seeds[0]}
    long, short = [next(r for r in value if r.startswith("mixed") and r.split()[1] == str(n)) for n in _steps(value)]
    gaps = [("modality models, own pool", short), ("modality models, own pool", long)]
    gaps += [("modality models, mixed pool", r.replace("own", "mixed")) for r in (short, long)]
    gaps += [("search: given", f"search: {r.removesuffix(', own pool')}") for r in (short, long)]
    gaps += [("search: given", f"search: {r}") for r in ("predicted", "wrong", "unknown, all parts in turn")]
    gaps += [("modality models, own pool", "wrong model, own pool")]
    value |= {f"{a} - {b}": value[a] - value[b] for a, b in gaps}
    for row, value_N in value.items():
        cells = {"all": interval(over(value_N, np.ones(len(units))), units)}
        for one in pairs.modalities:
            mine = np.flatnonzero(pairs.of_test_N == one)
            cells[one] = interval(over(value_N[mine], np.ones(len(mine))), [units[place] for place in mine])
        told[row] = {one: numbers and [round(number, 4) for number in numbers] for one, numbers in cells.items()}
        print(f"| {row} | " + " | ".join(cell(numbers, " - " in row) for numbers in cells.values()) + " |")
    return told | {"test_pairs": counts, "training_pairs": learnt}


def _steps(rows: Any) -> list[int]:
    """Steps of the mixed models, most first."""
    return sorted({int(row.split()[1]) for row in rows if row.startswith("mixed")}, reverse=True)


def measure(name: str, asked: argparse.Namespace, scratch: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """All seeds of a world."""
    started = time.process_time()
    pairs = read(name, asked.held_out, scratch)
    router = LinearRouter(TinyDualEncoder())
    router.prepare(pairs.train.documents, pairs.open_image, scratch)
    seeds = []
    for seed in asked.seeds:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            seeds.append(run(pairs, asked.steps, seed, router, Path(folder)))
        say(f"{name} seed {seed}: {time.process_time() - started:.0f} s of CPU so far")
    told = report(name, pairs, seeds)
    return told | {"router_held_out": router.told["held_out"], "cpu_seconds": round(time.process_time() - started, 1)}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table for each world, then one line of JSON."""
    os.environ.setdefault("MEDRAG_DATA", str(ROOT.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=list(MODALITIES), default=["minihospital"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=100, help="of a modality model")
    parser.add_argument("--held_out", type=float, default=0.25, help="share of the pairs of each modality")
    asked = parser.parse_args(argv)
    told: dict[str, Any] = {"seeds": asked.seeds, "steps": asked.steps}
    with tempfile.TemporaryDirectory() as scratch:
        for name in asked.data:
            told[name] = measure(name, asked, Path(scratch), lambda words: print(words, flush=True))
    print(json.dumps(told))


if __name__ == "__main__":
    main()
