"""Everything that this project writes and reads again, small: what the drills of the disk are done with."""

from __future__ import annotations

import csv
import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from drills import Thing

from callbacks.checkpoint_io import AtomicCheckpointIO
from callbacks.csv_logger import AppendingCSVLogger
from medrag_lightning.artifacts import fingerprint, sha256_file, write_bytes, write_json, write_jsonl, write_manifest, write_npy
from medrag_lightning.batches import Embedded
from medrag_lightning.cli.step_state import Record, read_record
from medrag_lightning.data.array_cache import cached_array
from medrag_lightning.data.scores import ScoreTable
from medrag_lightning.preference_files import read_preferences, write_preferences
from medrag_lightning.records import (
    Candidate,
    Channel,
    Condition,
    Document,
    ImageRef,
    Knowledge,
    PairKind,
    Preference,
    PreferenceSide,
    Query,
    Retrieved,
    Score,
    Split,
)
from medrag_lightning.retrieval.candidates import CachedTable, write_candidates
from medrag_lightning.retrieval.index import IndexConfig, open_index
from medrag_lightning.retrieval.shards import drop_merged, merge_shards, shards_complete
from medrag_lightning.retrieval.store import EvidenceStore
from medrag_lightning.retrieval.store_writer import StoreWriter
from medrag_lightning.score_files import IDENTITY, merge, rows_there, to_table, write_shard

DIM = 8


def embedded(count: int, seed: int) -> tuple[list[Document], Embedded]:
    """Documents with images and texts, and vectors of both."""
    documents = [Document(f"d{n}", f"text {seed} {n}", ImageRef(f"{n}.png"), f"p{n}") for n in range(count)]
    rng = np.random.default_rng(seed)
    vectors = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.normal(size=(2, count, DIM)).astype(np.float32)]
    places, texts = tuple(range(count)), tuple(fingerprint(document.text) for document in documents)
    return documents, Embedded(places, vectors[0], ("0" * 64,) * count, places, vectors[1], texts)


def checkpoint(value: float):
    def write(folder: Path) -> None:
        state = {"state_dict": {"w": torch.full((3000,), value)}, "medrag": {"stage": "toy"}, "epoch": 1}
        AtomicCheckpointIO().save_checkpoint(state, folder / "checkpoints" / "last.ckpt")

    return write


def checkpoint_state(folder: Path) -> float:
    loaded = AtomicCheckpointIO().load_checkpoint(folder / "checkpoints" / "last.ckpt")
    return float(loaded["state_dict"]["w"].mean())


def store(count: int, seed: int):
    def write(folder: Path) -> None:
        documents, vectors = embedded(count, seed)
        writer = StoreWriter(folder / "store", documents, f"encoder {seed}", {"seed": str(seed)}, DIM)
        try:
            writer.add(vectors)
            writer.finish()
        finally:
            writer.discard()

    return write


def store_state(folder: Path) -> str:
    opened = EvidenceStore.open(folder / "store")
    opened.verify()
    return f"{len(opened.documents())} {opened.fingerprint} {float(opened.vectors['image'].sum())}"


def shards(folder: Path) -> None:
    vectors = embedded(9, 1)[1]
    place, told = folder / "store" / "shards", {}
    for side in ("image", "text"):
        write_npy(place / f"r0-0.{side}.npy", getattr(vectors, f"{side}_ND"))
        told[f"{side}_file_sha256"] = sha256_file(place / f"r0-0.{side}.npy")
    fields = ("image_index", "image_sha256", "text_index", "text_sha256")
    write_manifest(place / "r0-0.json", told | {name: list(getattr(vectors, name)) for name in fields})
    write_manifest(place / "complete.json", {"encoder": {"fingerprint": "e", "parts": {}}, "dim": DIM, "chunks": ["r0-0"]})


def merge_all(folder: Path) -> None:
    if EvidenceStore.exists(folder / "store"):  # as LiveSearch.prepare does
        drop_merged(folder / "store")
    else:
        merge_shards(folder / "store", embedded(9, 1)[0])


def merged_state(folder: Path) -> str:
    if EvidenceStore.exists(folder / "store"):
        return store_state(folder)
    assert shards_complete(folder / "store")
    return "shards"


def index(folder: Path) -> None:
    open_index(EvidenceStore.open(folder / "store"), "image", IndexConfig())


def index_state(folder: Path) -> tuple[int, ...]:
    opened = EvidenceStore.open(folder / "store")
    found = open_index(opened, "image", IndexConfig()).search(np.asarray(opened.vectors["image"][:3]), 2)
    return tuple(found[1].ravel().tolist())


def scores(start: int, stop: int):
    return [Score(f"q{n}", Condition((f"d{n}",)), ("yes", "no"), (-0.1 * n, -1.0), (1, 1), 0) for n in range(start, stop)]


def shard(start: int, stop: int):
    def write(folder: Path) -> None:
        table = folder / "table"
        write_manifest(table / IDENTITY, {"reader": "r"})
        rows = scores(start, stop)
        write_shard(table, 0, start, to_table(rows, {row.query_id: "s" for row in rows}))

    return write


def merge_table(folder: Path) -> None:
    merge(folder / "table")


def old_table_and_new_shards(folder: Path) -> None:
    shard(0, 5)(folder)
    merge_table(folder)
    shard(5, 9)(folder)


def table_state(folder: Path) -> tuple:
    opened = ScoreTable.open(folder / "table")
    return tuple((name, opened.of_query(name)[0].logp_nats) for name in opened.query_ids)


def rows_state(folder: Path) -> tuple:
    return tuple(sorted({key[0] for key, _ in rows_there(folder / "table")}))


@cache
def pairs() -> dict[Split, list[Preference]]:
    sides = [PreferenceSide(Condition(("d1",)), answer, -1.0, 2) for answer in ("yes", "no")]
    made = [Preference(f"{n}", f"q{n}", PairKind.UTILISATION, Knowledge.BOTH, *sides) for n in range(20)]
    return {Split.TRAIN: made[:15], Split.VAL: made[15:]}


def preferences(folder: Path) -> None:
    write_preferences(folder / "pairs", pairs(), {"table": "t"}, {"pairs": 20})


def preference_state(folder: Path) -> str:
    found = read_preferences(folder / "pairs")
    return str([pair.id for mine in found.pairs.values() for pair in mine])


def predictions(answer: str):
    return lambda folder: write_jsonl(folder / "predictions" / "test.jsonl", ({"id": n, "is": answer * 200} for n in range(90)))


def predictions_state(folder: Path) -> str:
    return {json.loads(line)["is"] for line in (folder / "predictions" / "test.jsonl").read_text().splitlines()}.pop()


def results(value: float):
    return lambda folder: write_json(folder / "results.json", {"accuracy": value})


def plot(value: bytes):
    return lambda folder: write_bytes(folder / "plots" / "loss.png", value * 50_000)


def log(step: int, **values: float):
    return lambda folder: AppendingCSVLogger(str(folder)).log_metrics({"loss": 1.0, **values}, step)


def log_begin(folder: Path) -> None:
    for step in range(3):
        log(step)(folder)


def log_state(folder: Path) -> tuple:
    lines = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    rows = list(csv.DictReader(line for line in lines if line.endswith("\n")))  # a kill may have cut the last one
    assert all(None not in row and None not in row.values() for row in rows)
    return tuple(sorted({int(row["step"]) for row in rows}))


def candidates(score: float):
    documents = [Document(f"d{n}", f"text {n}") for n in range(3)]
    queries = [Query(f"q{n}", "what?") for n in range(5)]
    found = [Retrieved(q.id, tuple(Candidate(d, score, Channel.TEXT_TO_TEXT) for d in documents), "s") for q in queries]
    return lambda folder: write_candidates(folder / "candidates.arrow", queries, found, "s", documents)


def candidates_state(folder: Path) -> float:
    table = CachedTable(str(folder / "candidates.arrow"))
    table.load([Document(f"d{n}", f"text {n}") for n in range(3)], lambda ref: None, folder)
    return table.retrieve([Query("q1", "what?")])[0].candidates[0].score


def cached(folder: Path) -> None:
    cached_array(folder, "means", {"a": 1}, lambda: np.arange(5000, dtype=np.float32))


def cached_state(folder: Path) -> float:
    return float(cached_array(folder, "means", {"a": 1}, lambda: np.arange(5000, dtype=np.float32)).sum())


def record(done: bool):
    return lambda folder: Record({"verb": "fit"}, "f", done, 1.0).write(folder)


def record_state(folder: Path) -> bool:
    found = read_record(folder)
    assert found is not None
    return found.done


def nothing(folder: Path) -> None:
    """No old one."""


THINGS = [
    Thing("checkpoint", checkpoint(1.0), [checkpoint(2.0)], checkpoint_state),
    Thing("evidence store", store(7, 1), [store(11, 2)], store_state),
    Thing("embedded shards", shards, [merge_all], merged_state),
    Thing("search index", store(9, 1), [index], index_state),
    Thing("score shard", shard(0, 3), [shard(3, 6)], rows_state),
    Thing("score table", old_table_and_new_shards, [merge_table], table_state),
    Thing("preference pairs", preferences, [preferences], preference_state),
    Thing("predictions", predictions("a"), [predictions("b")], predictions_state),
    Thing("results", results(0.5), [results(0.6)], lambda folder: (folder / "results.json").read_text()),
    Thing("plot", plot(b"a"), [plot(b"b")], lambda folder: (folder / "plots" / "loss.png").read_bytes()),
    Thing("metrics.csv", log_begin, [log(3), log(4, accuracy=0.5), log(5)], log_state),
    Thing("candidates", candidates(0.5), [candidates(0.25)], candidates_state),
    Thing("array cache", nothing, [cached], cached_state),
    Thing("step record", record(False), [record(True)], record_state),
]
"""A line a thing. A bundle is added as ``Thing("bundle", export OLD, [export NEW], load and ask)``."""
