"""Search: this project's exact index and its bfloat16 one against plain FAISS (IndexFlatIP.search) on the same vectors.

Same float32 vectors, same queries in the same batches, same threads; the searches take turns, the figures are ratios of median
wall times, and of processor times (`_cpu`, which a busy machine spoils less). FAISS runs as it comes, and once more with the
threshold from which this project lets it multiply matrices (`_tuned`; the same search where both multiply). Recall is against a
float64 reference. Vectors of MEDRAG_DATA by the shipped tiny encoder: passages (about 29,000) asked by titles of every tenth;
images (about 5,500, of all image folders) asked by every sixth image, held out. Vectors are kept in a temporary file for the
next run. On a processor without bfloat16 instructions the exact index searches by FAISS and can only be slower.

The last line is JSON. Its ratios are the lowest over the widths, of passages in the largest batch, where plain FAISS is at
its best; its recalls are the lowest over everything. Small batches and images, which are few, stand beside them.

    GOMP_SPINCOUNT=0 OMP_NUM_THREADS=1 MEDRAG_DATA=... python scripts/bench/search.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import faiss  # isort: skip

PLAIN_THRESHOLD = faiss.cvar.distance_compute_blas_threshold  # before this project changes it

from medrag_lightning.artifacts import fingerprint  # noqa: E402
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder  # noqa: E402
from medrag_lightning.retrieval.half_pass import has_instructions  # noqa: E402
from medrag_lightning.retrieval.index import IndexConfig, VectorIndex  # noqa: E402

OUR_THRESHOLD = faiss.cvar.distance_compute_blas_threshold
Floats = NDArray[np.float32]
Search = Callable[[Floats], Any]


def passages(folder: Path, most: int | None) -> tuple[list[str], list[str]]:
    """Texts of all passages, each once, and titles of every tenth as questions."""
    rows = [
        json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines()
    ]
    named = {row["text"]: row.get("title", "") for row in rows if row.get("text")}
    texts = list(named)[:most]
    return texts, [named[text] for text in texts[::10] if named[text]]


def pictures(root: Path, most: int | None) -> list[Path | NDArray[np.uint8]]:
    """Image files of every data set, then the images that come as arrays."""
    found: list[Path | NDArray[np.uint8]] = [*sorted(root.glob("*/images/*.jp*g")), *sorted(root.glob("*/images/*.png"))]
    for path in (root / "retinamnist/retinamnist.npz", root / "breastmnist/breastmnist.npz"):
        if path.is_file():
            with np.load(path, allow_pickle=False) as arrays:
                found += [image for name in sorted(arrays.files) if name.endswith("_images") for image in arrays[name]]
    return found[:most]


def text_world(root: Path, most: int | None, dim: int) -> tuple[Floats, Floats]:
    """Vectors of passages and of titles."""
    encoder = TinyDualEncoder(dim)
    texts, asked = passages(root / "text", most)
    both = cached(lambda: encoder.embed_texts([*texts, *asked]), encoder.fingerprint(), texts, asked)
    return both[: len(texts)], both[len(texts) :]


def image_world(root: Path, most: int | None, dim: int) -> tuple[Floats, Floats]:
    """Vectors of images; every sixth is a query."""
    encoder = TinyDualEncoder(dim)
    found = pictures(root, most)
    opened = (Image.open(item) if isinstance(item, Path) else Image.fromarray(item) for item in found)
    names = [item.relative_to(root).as_posix() if isinstance(item, Path) else "array" for item in found]
    vectors = cached(lambda: np.concatenate([encoder.embed_images([one]) for one in opened]), encoder.fingerprint(), names)
    asked = np.arange(len(vectors)) % 6 == 0
    return np.ascontiguousarray(vectors[~asked]), np.ascontiguousarray(vectors[asked])


def cached(make: Callable[[], Floats], *told: Any) -> Floats:
    """What `make` gives, or gave in an earlier run that was told the same."""
    path = Path(tempfile.gettempdir()) / f"medrag-bench-search-{fingerprint(*told)[:16]}.npy"
    if not path.is_file():
        started = time.perf_counter()
        vectors = make()
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as stream:
            np.save(stream, vectors)
        Path(stream.name).replace(path)
        print(f"{len(vectors)} vectors made in {time.perf_counter() - started:.0f} s, kept in {path}", flush=True)
    found: Floats = np.load(path, allow_pickle=False)
    return found


def clusters(count: int, asked: int, dim: int) -> tuple[Floats, Floats]:
    """Points around 400 centres on the unit sphere, and questions near some of them."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((400, dim), dtype=np.float32)
    vectors = unit(centres[rng.integers(400, size=count)] + rng.standard_normal((count, dim), dtype=np.float32))
    return vectors, unit(vectors[rng.integers(count, size=asked)] + 0.5 * unit(rng.standard_normal((asked, dim))))


def unit(vectors: NDArray[Any]) -> Floats:
    """Rows of length 1, float32; rows of zeros stay."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.maximum(length, 1e-12), np.float32)


def compare(vectors: Floats, queries: Floats, nearest: NDArray[np.int64], batch: int, rounds: int) -> dict[str, float]:
    """Milliseconds a batch of each search, ratios to FAISS as it comes and as tuned, and recall@k of ours."""
    k, dim = nearest.shape[1], vectors.shape[1]
    plain = faiss.IndexFlatIP(dim)
    plain.add(vectors)
    indexes = {"flat": VectorIndex(vectors, IndexConfig()), "fast": VectorIndex(vectors, IndexConfig("bf16"))}
    searches: dict[str, Search] = {name: lambda part, index=index: index.search(part, k) for name, index in indexes.items()}  # type: ignore[misc]
    searches["faiss"] = lambda part: by_faiss(plain, PLAIN_THRESHOLD, part, k)
    tuned = "faiss"
    if batch * dim < PLAIN_THRESHOLD:
        tuned = "faiss_tuned"
        searches[tuned] = lambda part: by_faiss(plain, OUR_THRESHOLD, part, k)
    parts = [queries[start : start + batch] for start in range(0, max(batch, len(queries) - batch + 1), batch)]
    wall, cpu = turns(searches, parts[:4], rounds)
    report: dict[str, float] = {"count": len(vectors), "dim": dim, "queries_a_call": len(parts[0])}
    report |= {f"{name}_ms": round(value, 2) for name, value in wall.items()}
    for name, index in indexes.items():
        report[f"ratio_{name}"] = round(wall["faiss"] / wall[name], 3)
        report[f"ratio_{name}_cpu"] = round(cpu["faiss"] / cpu[name], 3)
        report[f"ratio_{name}_tuned"] = round(wall[tuned] / wall[name], 3)
        found = np.concatenate([index.search(queries[start : start + batch], k)[1] for start in range(0, len(nearest), batch)])
        hits = sum(len(np.intersect1d(a, b)) for a, b in zip(nearest, found, strict=False))
        report[f"recall_{name}"] = hits / nearest.size
    return report


def by_faiss(index: Any, threshold: int, part: Floats, k: int) -> Any:
    """A search of FAISS that multiplies matrices from so many queries times width on."""
    faiss.cvar.distance_compute_blas_threshold = threshold
    try:
        return index.search(part, k)
    finally:
        faiss.cvar.distance_compute_blas_threshold = OUR_THRESHOLD


def turns(searches: dict[str, Search], parts: Sequence[Floats], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median milliseconds a batch, wall and processor; a first round, in which copies are made, does not count."""
    wall: dict[str, list[float]] = {name: [] for name in searches}
    cpu: dict[str, list[float]] = {name: [] for name in searches}
    for number in range(rounds + 1):
        for part in parts:
            for name in searches if number % 2 else reversed(searches):
                started, spent = time.perf_counter(), time.process_time()
                searches[name](part)
                cpu[name].append(1000 * (time.process_time() - spent))
                wall[name].append(1000 * (time.perf_counter() - started))

    def middle(values: list[float]) -> float:
        return statistics.median(values[len(parts) :])

    return {name: middle(values) for name, values in wall.items()}, {name: middle(values) for name, values in cpu.items()}


def nearest_rows(vectors: Floats, queries: Floats, k: int) -> NDArray[np.int64]:
    """The k nearest by float64, (Q, k); of equals, the lower row is the nearer."""
    whole = vectors.astype(np.float64)
    found = []
    for start in range(0, len(queries), 32):
        scores = (queries[start : start + 32].astype(np.float64) @ whole.T).astype(np.float32)
        found.append(np.argsort(-scores, axis=1, kind="stable")[:, :k])
    return np.concatenate(found)


def worlds(chosen: argparse.Namespace) -> Iterator[tuple[str, Floats, Floats]]:
    """Name, vectors and queries of each comparison."""
    for dim in chosen.dims:
        if chosen.root is not None:
            yield f"text_{dim}", *text_world(chosen.root, chosen.most, dim)
            if not chosen.no_images:
                yield f"image_{dim}", *image_world(chosen.root, chosen.most, dim)
        if chosen.synthetic:
            yield f"synthetic_{dim}", *clusters(chosen.synthetic, 2 * max(chosen.batches), dim)


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; `root` is MEDRAG_DATA."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 1024], help="queries a call")
    parser.add_argument("--dims", type=int, nargs="+", default=[256, 768], help="the tiny encoder's width; that of Jina-CLIP")
    parser.add_argument("--synthetic", type=int, default=0, help="so many synthetic vectors, too")
    parser.add_argument("--no-images", action="store_true", help="passages only")
    parser.add_argument("--most", type=int, help="only so many passages and images")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(argv)
    root = os.environ.get("MEDRAG_DATA")
    if root is None and not chosen.synthetic:
        parser.error("MEDRAG_DATA is not set: name the data folder, or compare on --synthetic 100000 vectors")
    chosen.root = None if root is None else Path(root)
    return chosen


def main(argv: Sequence[str] | None = None) -> None:
    """Runs every comparison and prints one line of JSON last."""
    chosen = options(argv)
    threads = torch.get_num_threads()
    faiss.omp_set_num_threads(threads)
    compared: dict[str, dict[str, float]] = {}
    for name, vectors, queries in worlds(chosen):
        nearest = nearest_rows(vectors, queries[:256], chosen.k)
        for batch in chosen.batches:
            found = compare(vectors, queries, nearest, batch, chosen.rounds)
            print(f"{name}, {len(vectors)} vectors, {batch} queries a call: {found}", flush=True)
            compared[f"{name}_{batch}"] = found
    report: dict[str, Any] = {
        "k": chosen.k,
        "dims": chosen.dims,
        "batch": max(chosen.batches),
        "threads": threads,
        "bfloat16_instructions": has_instructions(),
    }
    kind = "synthetic" if chosen.root is None else "text"
    largest = [found for key, found in compared.items() if key.startswith(kind) and key.endswith(f"_{report['batch']}")]
    report["compared"], report["count"] = kind, largest[0]["count"]
    for name in ("flat", "fast"):
        for ratio in (f"ratio_{name}", f"ratio_{name}_cpu", f"ratio_{name}_tuned"):
            report[ratio] = min(found[ratio] for found in largest)
        report[f"recall_{name}"] = min(found[f"recall_{name}"] for found in compared.values())
    print(json.dumps({**report, **compared}))


if __name__ == "__main__":
    main()
