"""Cost of an epoch of retriever distillation: from the score table, against a live reader in the shape of JOMED's code.

The peer does per step what the released code of JOMED does for 2 queries and K candidates of the image side: a stale copy of
the head searches; then, in chunks of 5 candidates, the query passes the trained and the frozen tower, the candidates' images
the frozen one, and the reader generates 8 tokens greedily without a cache; g = log_softmax(softmax(l))[y]; KL over the K, times
1000; AdamW; the stale copy is renewed every 10 steps. Ours is stage `retriever_kl` under Lightning with the same towers,
candidates and batch of 2: collation, step and optimizer; before the first epoch the reader scores all pairs once and the table
is written, merged and opened (`first_epoch` adds that). Both are given per query, so an epoch of any size has the same ratio.

What is a toy here: the reader. Scoring and the peer cost its FLOPs, so with a 7B reader `ratio` is larger by orders; the
towers are small, too, but both sides use the same. Random weights never stop, so the peer always makes 8 forwards a chunk; a
fine-tuned reader ends after its label: `..._stopping` is with 2. CPU time, medians of interleaved repeats; JSON last.

    GOMP_SPINCOUNT=0 OMP_NUM_THREADS=1 python scripts/bench/distil_epoch.py
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from medrag_lightning.artifacts import write_json
from medrag_lightning.batches import CandidatePool, DistillExample, Example
from medrag_lightning.data.scores import ScoreTable
from medrag_lightning.models.heads import QueryHeads
from medrag_lightning.models.tiny import TinyBackbone
from medrag_lightning.models.tiny_towers import TinyTowers
from medrag_lightning.records import Condition, Score
from medrag_lightning.score_files import IDENTITY, merge, query_fingerprint, to_table, write_shard
from medrag_lightning.stages.base import Schedule
from medrag_lightning.stages.retriever_kl import RetrieverKl

sys.path.insert(0, str(Path(__file__).parent))
from scoring import CHOICES, Peer, World, generating, ours  # type: ignore[import-not-found]

DOCUMENTS = 1080
BATCH, CHUNK, MIX, REFRESH, QUERIES_A_CALL = 2, 5, 0.15, 10, 16
GOLD = CHOICES.index("one")


class Bench:
    """A reader, towers, documents with their vectors, and queries with K candidates each."""

    def __init__(self, backbone: TinyBackbone, queries: int, candidates: int, image_side_px: int) -> None:
        self.world, self.candidates = World(backbone, "evidence_first", max(DOCUMENTS, queries), image_side_px), candidates
        self.encoder = TinyTowers()
        size = len(self.world.documents)
        self.images = self.world.pictures[size:]
        self.vector_ND = self.encoder.embed_images(self.world.pictures[:size])
        self.examples: list[Example] = [self.world.example(n, self.world.found[n, :candidates]) for n in range(queries)]

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        """Of both sides."""
        return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01)

    def numbers(self, query: int) -> list[int]:
        """The documents among which the query's candidates are, as rows of `vector_ND`."""
        return [int(c.id.removeprefix("d")) for c in self.examples[query].candidates]


class LivePeer:
    """JOMED's step; a copy of the tower trains, everything else is frozen."""

    def __init__(self, bench: Bench, read: Peer) -> None:
        self.bench, self.read, self.steps = bench, read, 0
        self.tower = bench.encoder.image_tower()
        self.stale = copy.deepcopy(self.tower)
        self.optimizer = bench.optimizer(self.tower.parameters())

    def step(self, queries: Sequence[int]) -> float:
        """One step; gives the loss."""
        score_BK, gold_BK = zip(*(self._query(query) for query in queries), strict=True)
        logp_BK = torch.stack(score_BK).log_softmax(1)
        logq_BK = (torch.stack(gold_BK).log_softmax(1) + logp_BK.detach()).log_softmax(1)
        loss = 1000 * (logq_BK.exp() * (logq_BK - logp_BK)).mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.steps += 1
        if self.steps % REFRESH == 0:
            self.stale.load_state_dict(self.tower.state_dict())
        return loss.item()

    def _query(self, query: int) -> tuple[torch.Tensor, torch.Tensor]:
        bench, encoder = self.bench, self.bench.encoder
        inputs = encoder.image_inputs([bench.images[query]])
        with torch.no_grad():
            asked = MIX * self.stale(inputs) + (1 - MIX) * encoder.image_vectors(inputs)
            (asked @ torch.from_numpy(bench.vector_ND).T).topk(bench.candidates)  # searched; the pools of the world are read
        scores, golds = [], []
        numbers, example = bench.numbers(query), bench.examples[query]
        for start in range(0, bench.candidates, CHUNK):
            part = slice(start, start + CHUNK)
            with torch.no_grad():
                frozen = encoder.image_vectors(inputs)
                passage_KD = encoder.image_vectors(encoder.image_inputs([bench.world.pictures[n] for n in numbers[part]]))
                logit_KC = self.read(bench.world, [_part(example, part)])
            scores.append((MIX * self.tower(inputs) + (1 - MIX) * frozen) @ passage_KD.T)
            golds.append(logit_KC.softmax(1).log_softmax(1)[:, GOLD])
        return torch.cat(scores, 1)[0], torch.cat(golds)


def _part(example: Example, part: slice) -> Example:
    return Example(example.query, example.regime, example.candidates[part], example.query_image, example.candidate_images[part])


def score_once(bench: Bench, folder: Path) -> ScoreTable:
    """The reader's numbers for every query and candidate, written, merged and opened."""
    rows = []
    counts = tuple(len(ids) for ids in bench.world.reader.processor.encode_answers(CHOICES))
    for start in range(0, len(bench.examples), QUERIES_A_CALL):
        few = bench.examples[start : start + QUERIES_A_CALL]
        with torch.no_grad():
            logp_QKC = ours(bench.world, few).tolist()
        for example, of_query in zip(few, logp_QKC, strict=True):
            for candidate, logps in zip(example.candidates, of_query, strict=True):
                rows.append(Score(example.query.id, Condition((candidate.id,)), CHOICES, tuple(logps), counts, GOLD))
    write_json(folder / IDENTITY, {"schema": 1})
    write_shard(folder, 0, 0, to_table(rows, {e.query.id: query_fingerprint(e.query) for e in bench.examples}))
    merge(folder)
    return ScoreTable.open(folder)


class Served(L.LightningDataModule):
    """Queries with their pools, read from the table when the loader is made, as the distillation feed does."""

    source = None

    def __init__(self, bench: Bench, table: ScoreTable) -> None:
        super().__init__()
        self.bench, self.table = bench, table

    def training_texts(self) -> list[str]:
        """None are needed."""
        return []

    def train_dataloader(self) -> Any:
        """Batches of 2, collated by the stage in the main process."""
        collate = self.trainer.lightning_module.collator(training=True)  # type: ignore[union-attr, operator]
        made = [self._example(query) for query in range(len(self.bench.examples))]
        return DataLoader(made, BATCH, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]

    def _example(self, query: int) -> DistillExample:
        example, vectors = self.bench.examples[query], self.bench.vector_ND
        ids = tuple(candidate.id for candidate in example.candidates)
        logp_KC, count_C, gold = self.table.one_candidate(example.query.id, ids)
        passage_KD: NDArray[np.float32] = vectors[self.bench.numbers(query)]
        return DistillExample(
            example.query, self.bench.images[query], {"image": CandidatePool(ids, passage_KD, logp_KC, count_C, gold)}
        )


def table_epoch(bench: Bench, table: ScoreTable) -> None:
    """One epoch of the stage."""
    stage = RetrieverKl(QueryHeads(TinyTowers(), ["image"]), partial(bench.optimizer), Schedule("constant", 0.0), t_score=1.0)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator="cpu", devices=1, max_epochs=1, gradient_clip_val=1.0, **quiet)  # type: ignore[arg-type]
    trainer.fit(stage, datamodule=Served(bench, table))


def measure(bench: Bench, rounds: int) -> dict[str, Any]:
    """Milliseconds of CPU a query, medians over interleaved rounds, and the ratios."""
    peers = {f"live{end}": LivePeer(bench, generating(False, tokens)) for end, tokens in (("", 8), ("_stopping", 2))}
    spent: dict[str, list[float]] = {}
    count = len(bench.examples)
    for number in range(rounds + 1):  # the first round warms up
        pair = [(BATCH * number + b) % count for b in range(BATCH)]
        with TemporaryDirectory() as name:
            table: list[ScoreTable] = []
            runs: list[tuple[str, Callable[[], Any], int]] = [
                *((peer, partial(made.step, pair), BATCH) for peer, made in peers.items()),
                ("scoring", lambda kept=table, at=Path(name): kept.append(score_once(bench, at)), count),  # type: ignore[misc]
                ("table", lambda kept=table: table_epoch(bench, kept[0]), count),  # type: ignore[misc]
            ]
            for what, run, queries in runs:
                start = time.process_time()
                run()
                spent.setdefault(what, []).append(1000 * (time.process_time() - start) / queries)
    ms = {what: statistics.median(values[1:]) for what, values in spent.items()}
    report: dict[str, Any] = {f"{what}_ms": round(value, 3) for what, value in ms.items()}
    for end in ("", "_stopping"):
        report[f"ratio{end}"] = round(ms[f"live{end}"] / ms["table"], 1)
        report[f"ratio_first_epoch{end}"] = round(ms[f"live{end}"] / (ms["table"] + ms["scoring"]), 2)
    return report


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, and prints one line of JSON last."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--candidates", type=int, default=50, help="K")
    parser.add_argument("--queries", type=int, default=32, help="queries of an epoch of ours")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vision_layers", type=int, default=4)
    parser.add_argument("--image_side", type=int, default=64, help="pixels")
    chosen = parser.parse_args(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    sizes = {"hidden": chosen.hidden, "layers": chosen.layers, "vision_layers": chosen.vision_layers}
    backbone = TinyBackbone("llava", **sizes, vision_hidden=chosen.hidden * 3 // 4, image_side_px=chosen.image_side)
    bench = Bench(backbone, chosen.queries, chosen.candidates, chosen.image_side)
    print(json.dumps({**vars(chosen), "threads": torch.get_num_threads(), **measure(bench, chosen.rounds)}))


if __name__ == "__main__":
    main()
