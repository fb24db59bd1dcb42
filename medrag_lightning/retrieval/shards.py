"""Vectors that `trainer.predict` left on disk (callbacks.EmbeddingWriter), put together into an evidence store.

    shards/r00000-00000.json        what the vectors beside it belong to: document numbers, sha256 of pixels and texts
    shards/r00000-00000.image.npy   unit vectors of images; likewise .text.npy
    shards/complete.json            encoder, width, the list of all chunks; written last, by the first process

Without `complete.json` the run did not finish and nothing is read.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from medrag_lightning.artifacts import read_manifest, sha256_file
from medrag_lightning.batches import Embedded
from medrag_lightning.disk import refusals_told
from medrag_lightning.records import Document
from medrag_lightning.retrieval.store import EvidenceStore, VectorType
from medrag_lightning.retrieval.store_writer import StoreWriter

SHARDS, COMPLETE = "shards", "complete.json"


def shards_complete(folder: Path) -> bool:
    """Whether a finished embedding run waits in `folder` to be merged."""
    return (folder / SHARDS / COMPLETE).is_file()


def merge_shards(
    folder: Path, documents: Sequence[Document], dtype: VectorType = "float32", encoder_fingerprint: str | None = None
) -> EvidenceStore:
    """Makes a store of the shards in `folder` and removes them.

    ValueError where the run did not finish, used another encoder than `encoder_fingerprint`, or embedded another corpus.
    """
    if not shards_complete(folder):
        raise ValueError(f"{folder / SHARDS} has no {COMPLETE}: the embedding run did not finish; run it again")
    told = read_manifest(folder / SHARDS / COMPLETE, f"delete {folder / SHARDS} and embed this corpus again")
    if encoder_fingerprint is not None and told["encoder"]["fingerprint"] != encoder_fingerprint:
        raise ValueError(f"{folder / SHARDS} holds vectors of another encoder; delete it, or name the encoder that made them")
    writer = StoreWriter(folder, documents, told["encoder"]["fingerprint"], told["encoder"]["parts"], told["dim"], dtype)
    try:
        for embedded in read_chunks(folder / SHARDS, told["chunks"]):
            writer.add(embedded)
        store = writer.finish()
    except ValueError as error:
        raise ValueError(f"{folder / SHARDS}: {error}; delete it and embed this corpus again") from error
    finally:
        writer.discard()
    drop_merged(folder)
    return store


def drop_merged(folder: Path) -> None:
    """Removes shards that a store has taken up; they may be left where a merge was cut short at its end."""
    if EvidenceStore.exists(folder) and (folder / SHARDS).is_dir():
        with refusals_told(folder / SHARDS):
            shutil.rmtree(folder / SHARDS)


def read_chunks(shards: Path, names: Sequence[str]) -> Iterator[Embedded]:
    """The chunks one by one."""
    for name in names:
        told = read_manifest(shards / f"{name}.json", "it is a chunk of an embedding run")
        files = {side: shards / f"{name}.{side}.npy" for side in ("image", "text")}
        for side, path in files.items():
            if not path.is_file() or told.get(f"{side}_file_sha256", sha256_file(path)) != sha256_file(path):
                raise ValueError(f"{path.name} is damaged or gone")
        images, texts = (np.load(path, allow_pickle=False) for path in files.values())
        yield Embedded(
            tuple(told["image_index"]),
            images,
            tuple(told["image_sha256"]),
            tuple(told["text_index"]),
            texts,
            tuple(told["text_sha256"]),
        )
