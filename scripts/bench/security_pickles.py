"""Files that run code when they are unpickled, planted as every file that the project reads. Drills of `security.py`.

A planted file makes a folder when it is unpickled. A drill passes when the loader refuses the file and there is no such folder.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from security_bombs import Drill  # type: ignore[import-not-found]

from medrag_lightning.artifacts import read_json, sha256_file, write_json


class Planted:
    """Unpickled, it makes a folder."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.mkdir, (str(self.flag),)


def planted_pickles(folder: Path) -> list[Drill]:
    """A drill for each loader and each way to hide a pickle in what it reads."""
    folder.mkdir(parents=True)
    flag = folder / "executed"
    raw = pickle.dumps(Planted(flag))
    found = [*_checkpoints(folder, flag, raw), *_arrays(folder, flag, raw), *_tables(folder, raw), *_readers(folder, flag)]
    return [Drill("pickle", name, _watched(read, flag)) for name, read in found]


Loaders = Iterable[tuple[str, Callable[[], object]]]


def _watched(read: Callable[[], object], flag: Path) -> Callable[[], object]:
    def watched() -> None:
        refused: Exception | None = None
        try:
            read()
        except Exception as error:  # noqa: BLE001  (what counts is that nothing ran)
            refused = error
        if flag.exists():
            flag.rmdir()
            raise RuntimeError("code from the file was run")
        if refused is None:
            raise RuntimeError("the file was read")
        raise ValueError(f"{type(refused).__name__}: {refused}")

    return watched


def _checkpoints(folder: Path, flag: Path, raw: bytes) -> Loaders:
    from callbacks.checkpoint_io import AtomicCheckpointIO
    from medrag_lightning.cli.checkpoint_head import CheckpointHead, read_head
    from medrag_lightning.models.checkpoints import read_trained
    from medrag_lightning.stages.base import read_checkpoint

    head = {"stage": "reader_raft", "version": "0", "description": {"reader": {}}, "trained": []}
    plain = {"medrag": head, "state_dict": {}}
    files = {
        "whole": {"medrag": Planted(flag)},
        "in weights": plain | {"state_dict": {"reader.w": Planted(flag)}},
        "in description": plain | {"medrag": head | {"description": {"reader": Planted(flag)}}},
        "in optimizer": plain | {"optimizer_states": [Planted(flag)]},
    }
    for name, content in files.items():
        path = folder / f"{name.replace(' ', '_')}.ckpt"
        torch.save(content, path)
        yield f"stage, init_from: {name}", partial(read_checkpoint, str(path), "reader_raft")
        yield f"trained part: {name}", partial(read_trained, str(path), "reader_raft", "reader.", "x")
        yield f"ckpt_path: {name}", partial(AtomicCheckpointIO().load_checkpoint, path)

        def headless(path: Path = path) -> None:
            if read_head(path) == CheckpointHead():
                raise ValueError("an empty head")

        yield f"head: {name}", headless
    bare = folder / "bare.ckpt"
    bare.write_bytes(raw)
    yield "stage: bare pickle", lambda: read_checkpoint(str(bare), "reader_raft")
    yield "trained part: bare pickle", lambda: read_trained(str(bare), "reader_raft", "reader.", "x")
    yield "ckpt_path: bare pickle", lambda: AtomicCheckpointIO().load_checkpoint(bare)
    yield from _instantiator(folder, flag)


def _instantiator(folder: Path, flag: Path) -> Loaders:
    """Lightning once called whatever ``_instantiator`` named."""
    import lightning as L

    made = {"_instantiator": "os.mkdir", "path": str(flag), "config": str(flag)}
    path = folder / "instantiator.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": made, "datamodule_hyper_parameters": made,
                "pytorch-lightning_version": "2.6.6"}, path)  # fmt: skip

    def through_lightning() -> None:
        L.LightningModule.load_from_checkpoint(str(path), weights_only=True)
        raise ValueError("loaded, and nothing was run")

    from medrag_lightning.stages.base import read_checkpoint

    yield "_instantiator: lightning", through_lightning
    yield "_instantiator: stage", lambda: read_checkpoint(str(path), "reader_raft")


def _arrays(folder: Path, flag: Path, raw: bytes) -> Loaders:
    from medrag_lightning.data.array_cache import cached_array
    from medrag_lightning.data.arrays import read_array
    from medrag_lightning.data.images import ImageStore
    from medrag_lightning.records import ImageRef
    from medrag_lightning.retrieval.store import EvidenceStore

    objects = np.array([Planted(flag)], dtype=object)
    np.save(folder / "o.npy", objects)
    np.savez(folder / "o.npz", images=objects)
    (folder / "bare.npz").write_bytes(raw)
    yield ".npz array", lambda: read_array(folder / "o.npz", "images")
    yield ".npz image", lambda: ImageStore([folder])(ImageRef(str(folder / "o.npz"), "images", 0))
    yield ".npz bare pickle", lambda: read_array(folder / "bare.npz", "images")
    yield ".png bare pickle", lambda: _image_of(folder, raw)

    cached_array(folder / "cache", "x", {}, lambda: np.zeros(1, np.float32))
    (array,) = (folder / "cache").glob("*.npy")
    for name, data in (("objects", (folder / "o.npy").read_bytes()), ("bare pickle", raw)):

        def cache(data: bytes = data) -> object:
            array.write_bytes(data)
            write_json(array.with_suffix(".json"), {"sha256": sha256_file(array)})
            return cached_array(folder / "cache", "x", {}, lambda: np.zeros(1, np.float32))

        yield f"array cache: {name}", cache
        store, shards = folder / f"store {name}", folder / f"shards {name}"
        for place in (store, shards):
            place.mkdir()
        for side in ("image", "text"):
            (store / f"{side}.npy").write_bytes(data)
            (shards / f"a.{side}.npy").write_bytes(data)
        rows = pa.table({"has_image": [True], "has_text": [True], "image_sha256": ["x"]})
        with pa.OSFile(str(store / "documents.arrow"), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as stream:
            stream.write_table(rows)
        write_json(store / "manifest.json", {"schema": 1, "files": {}})
        write_json(shards / "a.json", {"image_index": [0], "image_sha256": [], "text_index": [], "text_sha256": []})
        yield f"evidence store: {name}", partial(EvidenceStore.open, store)
        yield f"embedding shards: {name}", partial(_chunks, shards)


def _chunks(shards: Path) -> object:
    from medrag_lightning.retrieval.shards import read_chunks

    return list(read_chunks(shards, ["a"]))


def _image_of(folder: Path, raw: bytes) -> object:
    from medrag_lightning.data.images import ImageStore
    from medrag_lightning.records import ImageRef

    (folder / "p.png").write_bytes(raw)
    return ImageStore([folder])(ImageRef(str(folder / "p.png")))


def _tables(folder: Path, raw: bytes) -> Loaders:
    import faiss

    from medrag_lightning.cli.config_files import read_config
    from medrag_lightning.data.row_files import read_rows
    from medrag_lightning.preference_files import read_preferences
    from medrag_lightning.score_files import read_rows as read_scores

    def rows(path: Path) -> None:
        problems = [row.problem for row in read_rows(path) if row.problem]
        raise ValueError(problems[0]) if problems else RuntimeError("read")

    for suffix in (".pkl", ".pt", ".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz"):
        (folder / f"rows{suffix}").write_bytes(raw)
        yield f"table {suffix}", partial(rows, folder / f"rows{suffix}")
    (folder / "scores.arrow").write_bytes(raw)
    yield "score table: bare pickle", lambda: read_scores(folder / "scores.arrow")
    told = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": raw}
    schema = pa.schema([pa.field("x", pa.int64(), metadata=told)])
    with pa.OSFile(str(folder / "ext.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as stream:
        stream.write_table(pa.table({"x": [1]}, schema=schema))
    yield "score table: Arrow extension type", lambda: read_scores(folder / "ext.arrow")
    (folder / "pairs").mkdir()
    (folder / "pairs" / "pairs.arrow").write_bytes(raw)
    write_json(folder / "pairs" / "statistics.json", {})
    sums = {name: sha256_file(folder / "pairs" / name) for name in ("pairs.arrow", "statistics.json")}
    manifest = {"schema": 1, "identity": {}, "pairs": {"train": 1}, "file": {"sha256": sums["pairs.arrow"]}}
    write_json(folder / "pairs" / "manifest.json", manifest | {"statistics_sha256": sums["statistics.json"]})
    yield "preference pairs: bare pickle", lambda: read_preferences(folder / "pairs")
    (folder / "m.json").write_bytes(raw)
    yield "manifest: bare pickle", lambda: read_json(folder / "m.json")
    (folder / "flat.faiss").write_bytes(raw)
    yield "search index: bare pickle", lambda: faiss.read_index(str(folder / "flat.faiss"))
    for number, tag in enumerate(("!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir", "!!python/name:os.mkdir")):
        path = folder / f"tag{number}.yaml"
        path.write_text(f"model: {tag} ['{folder / 'executed'}']\n")
        yield f"config: {tag}", partial(_constructed, read_config, path)


def _constructed(read_config: Callable[[Path], object], path: Path) -> object:
    import yaml

    read_config(path)
    return yaml.safe_load(path.read_text())  # as a recipe is; jsonargparse reads with a loader of the same kind


def _readers(folder: Path, flag: Path) -> Loaders:
    from security_readers import hub_folders  # type: ignore[import-not-found]

    yield from hub_folders(folder / "readers", Planted(flag))
