"""Nearest vectors: flat (exact), bfloat16, HNSW or IVF-PQ; always k different rows, in one order for one question.

torch is imported before faiss, and nothing here is searched inside loader workers: two OpenMP runtimes and a fork deadlock.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch  # noqa: F401  (before faiss)
from numpy.typing import NDArray

import faiss  # isort: skip

from medrag_lightning.artifacts import atomic_write, fingerprint, read_manifest, sha256_file, write_manifest
from medrag_lightning.records import Document
from medrag_lightning.retrieval.half_pass import HalfPass, has_instructions
from medrag_lightning.retrieval.rescoring import Floats, Integers, best, pair_scores
from medrag_lightning.retrieval.shards import merge_shards, shards_complete
from medrag_lightning.retrieval.store import SIDES, EvidenceStore, Side, Vectors, VectorType

logger = logging.getLogger(__name__)
SLACK = 1e-5  # more than float32 sums of products of unit vectors ever differ by, for a query of length 1
QUERY_CHUNK = 1024
# Queries times width from which FAISS multiplies matrices. Its own 128,000 costs 9 times the time at 8 to 500 queries; that
# sums then differ in the last bits does not matter here, scores are computed again.
faiss.cvar.distance_compute_blas_threshold = 2048
_SETTINGS = {
    "flat": {},
    "bf16": {},
    "hnsw": {"hnsw_links": 32, "hnsw_build_depth": 80, "hnsw_search_depth": 128},
    "ivf_pq": {"ivf_lists": 256, "ivf_probes": 16, "pq_bytes": 32},
}


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class IndexConfig:
    """Which index, and its settings; a setting of another kind than `kind` is refused. Null: the default in brackets.

    Args:
        kind: ``flat`` is exact; ``bf16`` looks at a copy in half the memory first, whatever the number of queries, misses a
            neighbour only where rounding changed a score by four times what it typically does (of 50 neighbours, fewer
            than one in a thousand), and writes no file; ``hnsw`` is a graph, for a million documents; ``ivf_pq`` packs
            vectors, for many millions.
        hnsw_links: links of a node [32]. hnsw_build_depth, hnsw_search_depth: efConstruction [80] and efSearch [128].
        ivf_lists: clusters [256, at most one for 39 vectors]. ivf_probes: clusters searched [16].
        pq_bytes: bytes of a packed vector [32]; must divide the width of the vectors.
    """

    kind: Literal["flat", "bf16", "hnsw", "ivf_pq"] = "flat"
    hnsw_links: int | None = None
    hnsw_build_depth: int | None = None
    hnsw_search_depth: int | None = None
    ivf_lists: int | None = None
    ivf_probes: int | None = None
    pq_bytes: int | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in asdict(self).items() if name != "kind" and value is not None}
        if self.kind not in _SETTINGS:
            raise ValueError(f"index kind {self.kind!r} is unknown; choose one of {', '.join(_SETTINGS)}")
        for name, value in given.items():
            if name not in _SETTINGS[self.kind]:
                raise ValueError(f"{name}={value} would be ignored by an index of kind {self.kind!r}; leave it out")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def settings(self) -> dict[str, int]:
        """The settings of this kind, with defaults filled in."""
        given = asdict(self)
        return {name: default if given[name] is None else given[name] for name, default in _SETTINGS[self.kind].items()}

    def fingerprint(self) -> str:
        """sha256 of kind and settings."""
        return fingerprint(self.kind, self.settings())


class VectorIndex:
    """An index over the vectors of one side of a store.

    Scores are computed again from the stored vectors, pair by pair, so that order and ties (lower row first) do not depend
    on the number of threads or on what else is asked at the same time. They are summed in float64, which makes them the same
    for every kind of index; for ``bf16``, which is to be fast, in float32. A flat index is exact, whether FAISS or the first
    pass in bfloat16 made the shortlist; the latter takes half the time for many queries.
    """

    def __init__(self, vectors: Vectors, config: IndexConfig, path: Path | None = None) -> None:
        """Reads the index from `path` if it is there, else builds it (and writes it to `path` if one is given)."""
        self.vectors, self.config = vectors, config
        self._half: HalfPass | None = None
        if not len(vectors):
            raise ValueError("an index needs at least one vector")
        if config.kind == "bf16":
            self._half = HalfPass(vectors)
            return
        if path is not None and _is_whole(path):
            self._index = _read(path, config)
        else:
            self._index = _build(vectors, config)
            if path is not None:
                _write(self._index, path)
                self._index = _read(path, config)
        if self._index.ntotal != len(vectors) or self._index.d != vectors.shape[1]:
            raise ValueError(f"{path} indexes {self._index.ntotal} vectors, the store has {len(vectors)}; delete that file")
        self._set_depth()

    def __len__(self) -> int:
        return len(self.vectors)

    def search(self, query_BD: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and rows of the best min(k, N) vectors of each query, best first: (B, k) each, every row once."""
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        k = min(k, len(self))
        scores = np.empty((len(query_BD), k), np.float32)
        rows = np.empty((len(query_BD), k), np.int64)
        for start in range(0, len(query_BD), QUERY_CHUNK):
            part = slice(start, start + QUERY_CHUNK)
            scores[part], rows[part] = self._search_chunk(np.ascontiguousarray(query_BD[part], np.float32), k)
        return scores, rows

    def _search_chunk(self, query_BD: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        half = self._first_pass(len(query_BD), k)
        if half is not None:
            found = []
            for part, who, row in half.shortlists(query_BD, k, certain=self.config.kind == "flat"):
                asked = query_BD[part]
                found.append(best(who, row, self._scores(asked, who, row), len(asked), k))
            return np.concatenate([scores for scores, *_ in found]), np.concatenate([rows for _, rows, _ in found])
        fetch = min(len(self), k + 16)
        rough_BF, rows_BF = self._index.search(query_BD, fetch)
        rows_BF.sort(axis=1)
        who, place = np.nonzero(rows_BF >= 0)
        row = rows_BF[who, place]
        scores, rows, good = best(who, row, self._scores(query_BD, who, row), len(query_BD), k)
        if self.config.kind == "flat" and fetch < len(self):
            # Whatever was not fetched scores at most the last rough score, so a clear k-th score settles the matter.
            good &= scores[:, -1] > rough_BF[:, -1] + SLACK * np.linalg.norm(query_BD, axis=1)
        for number in np.flatnonzero(~good):
            scores[number], rows[number] = self._scan(query_BD[number], k)
        return scores, rows

    def _first_pass(self, queries: int, k: int) -> HalfPass | None:
        """The bfloat16 copy, where it is asked for, or where it makes an exact search faster; made when first needed."""
        if self.config.kind == "flat" and has_instructions() and HalfPass.pays(len(self), queries, k):
            self._half = self._half or HalfPass(self.vectors)
            return self._half
        return self._half if self.config.kind == "bf16" else None

    def _scan(self, query: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The exact answer without the index: for ties that reach beyond what was fetched, and where too few were found."""
        everything = np.arange(len(self))
        exact = self._scores(query[None], np.zeros_like(everything), everything)
        order = np.argsort(-exact, kind="stable")[:k]
        return exact[order], order

    def _scores(self, query_BD: Floats, who_P: Integers, row_P: Integers) -> Floats:
        sums = np.float32 if self.config.kind == "bf16" else np.float64
        return pair_scores(query_BD, self.vectors, who_P, row_P, sums)

    def _set_depth(self) -> None:
        settings = self.config.settings()
        if self.config.kind == "hnsw":
            self._index.hnsw.efSearch = settings["hnsw_search_depth"]
        if self.config.kind == "ivf_pq":
            self._index.nprobe = min(settings["ivf_probes"], self._index.nlist)


def index_path(store: EvidenceStore, side: Side, config: IndexConfig) -> Path:
    """Where the index of a side lies. The name follows from store, pixels and settings: a stale file is never read."""
    told = fingerprint(store.fingerprint, store.manifest["corpus"]["pixels_sha256"], config.fingerprint())
    return store.folder / f"{side}.{config.kind}.{told[:12]}.faiss"


def open_index(store: EvidenceStore, side: Side, config: IndexConfig) -> VectorIndex:
    """The index of a side of `store`, built and written if it is not there."""
    return VectorIndex(store.vectors[side], config, index_path(store, side, config))


def copy_index(before: Path, after: Path) -> None:
    """Copies a built index with its checksum, without which it would be built, and written, again."""
    shutil.copyfile(before, after)
    shutil.copyfile(_checksum(before), _checksum(after))


def build_index(
    store_folder: Path,
    config: IndexConfig,
    documents: Sequence[Document] | None = None,
    dtype: VectorType = "float32",
) -> list[Path]:
    """Builds the index of every side that has vectors; gives the files that there are.

    Finished shards are merged into a store first.

    Args:
        store_folder: the store's folder, or one that `predict` has filled with shards.
        config: kind of index and its settings.
        documents: the corpus; needed only to merge shards.
        dtype: of the stored vectors, where shards are merged.
    """
    if not EvidenceStore.exists(store_folder) and shards_complete(store_folder):
        if documents is None:
            raise ValueError(
                f"{store_folder} holds vectors of `predict` that are not merged yet: run `fit` or `test` with this corpus, "
                "which merges and indexes them"
            )
        merge_shards(store_folder, documents, dtype)
    store = EvidenceStore.open(store_folder)
    sides = [side for side in SIDES if len(store.vectors[side])]
    for side in sides:
        open_index(store, side, config)
    return [path for side in sides if (path := index_path(store, side, config)).is_file()]


def _build(vectors: Vectors, config: IndexConfig) -> Any:
    count, dim = vectors.shape
    settings, metric = config.settings(), faiss.METRIC_INNER_PRODUCT
    whole = np.ascontiguousarray(vectors, np.float32)
    index: Any
    if config.kind == "flat":
        index = faiss.IndexFlatIP(dim)
        index.add(whole)
        return index
    if config.kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, settings["hnsw_links"], metric)
        index.hnsw.efConstruction = settings["hnsw_build_depth"]
        index.add(whole)
        return index
    if dim % settings["pq_bytes"]:
        raise ValueError(f"pq_bytes={settings['pq_bytes']} does not divide the width of the vectors, {dim}")
    bits = 8 if count >= 39 * 256 else max(1, min(8, int(np.log2(max(count // 39, 2)))))
    lists = max(1, min(settings["ivf_lists"], count // 39))
    index = faiss.index_factory(dim, f"IVF{lists},PQ{settings['pq_bytes']}x{bits}", metric)
    index.train(whole)
    index.add(whole)
    return index


def _write(index: Any, path: Path) -> None:
    """The index, then its checksum, without which it is built again: faiss may crash on a damaged file."""
    with atomic_write(path) as stream:
        faiss.write_index(index, faiss.PyCallbackIOWriter(stream.write))  # type: ignore[attr-defined]
    write_manifest(_checksum(path), {"bytes": path.stat().st_size, "sha256": sha256_file(path)})


def _checksum(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _is_whole(path: Path) -> bool:
    """Whether an index lies at `path`, byte for byte as it was written; one that does not is built again."""
    if not path.is_file() or not _checksum(path).is_file():
        return False
    try:
        told = read_manifest(_checksum(path), "the index is built again")
        whole = bool(path.stat().st_size == told["bytes"]) and sha256_file(path) == told["sha256"]
    except (ValueError, KeyError):
        whole = False
    if not whole:
        logger.warning("%s is damaged; it is built again", path)
    return whole


def _read(path: Path, config: IndexConfig) -> Any:
    """Mapped, not read, where faiss can: flat indexes by the second of its two flags, inverted lists by the first."""
    flag = {"flat": faiss.IO_FLAG_MMAP_IFC, "hnsw": 0, "ivf_pq": faiss.IO_FLAG_MMAP}[config.kind]
    try:
        return faiss.read_index(str(path), flag)
    except RuntimeError as error:
        raise ValueError(f"{path} is no readable index; delete that file to have it built again") from error
