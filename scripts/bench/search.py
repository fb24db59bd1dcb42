"""Search: this project's exact index and its bfloat16 one against plain FAISS (IndexFlatIP.search) on the same vectors.

Same float32 vectors, same queries in the same batches, same threads; the three take turns, the figures are medians. FAISS runs
as it comes; in small batches, where it then does not multiply matrices, once more with the threshold from which this project
lets it (`tuned`). Recall is against a float64 reference. Real vectors: the passages of MEDRAG_DATA/text (about 29,000) asked by
their titles, by the shipped tiny encoder and by latent semantic analysis; synthetic ones: clusters on the unit sphere. On a
processor without bfloat16 instructions the exact index searches by FAISS and can only be slower. The last line is JSON; its
ratios are the lowest over the real vectors in the largest batch, where FAISS as it comes is at its best, its recalls the lowest
over all batches; of synthetic vectors where there is no MEDRAG_DATA.

    GOMP_SPINCOUNT=0 OMP_NUM_THREADS=1 MEDRAG_DATA=... python scripts/bench/search.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import faiss  # isort: skip

PLAIN_THRESHOLD = faiss.cvar.distance_compute_blas_threshold  # before this project changes it

from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder  # noqa: E402
from medrag_lightning.retrieval.half_pass import has_instructions  # noqa: E402
from medrag_lightning.retrieval.index import IndexConfig, VectorIndex  # noqa: E402

OUR_THRESHOLD = faiss.cvar.distance_compute_blas_threshold
Floats = NDArray[np.float32]


def passages(folder: Path, most: int | None) -> tuple[list[str], list[str]]:
    """Texts of all passages, each once, and titles of every tenth as questions."""
    rows = [
        json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines()
    ]
    named = {row["text"]: row.get("title", "") for row in rows if row.get("text")}
    texts = list(named)[:most]
    return texts, [named[text] for text in texts[::10] if named[text]]


def by_tiny_encoder(texts: Sequence[str], asked: Sequence[str], dim: int) -> tuple[Floats, Floats]:
    """Vectors of the encoder that the shipped configuration searches with."""
    encoder = TinyDualEncoder(dim)
    return encoder.embed_texts(texts), encoder.embed_texts(asked)


def by_lsa(texts: Sequence[str], asked: Sequence[str], dim: int) -> tuple[Floats, Floats]:
    """Vectors of latent semantic analysis: TF-IDF, then a truncated singular value decomposition."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(min_df=2, sublinear_tf=True)
    counts = words.fit_transform(texts)
    turn = TruncatedSVD(min(dim, counts.shape[1] - 1), n_iter=1, random_state=0)
    return unit(turn.fit_transform(counts)), unit(turn.transform(words.transform(asked)))


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


def compare(vectors: Floats, queries: Floats, batch: int, k: int, rounds: int) -> dict[str, float]:
    """Milliseconds a batch of each search, ratios to the faster FAISS, and recall@k of ours."""
    plain = faiss.IndexFlatIP(vectors.shape[1])
    plain.add(vectors)
    indexes = {"flat": VectorIndex(vectors, IndexConfig()), "fast": VectorIndex(vectors, IndexConfig("bf16"))}

    def by_faiss(threshold: int, part: Floats) -> Any:
        faiss.cvar.distance_compute_blas_threshold = threshold
        try:
            return plain.search(part, k)
        finally:
            faiss.cvar.distance_compute_blas_threshold = OUR_THRESHOLD

    searches: dict[str, Callable[[Floats], Any]] = {
        "flat": lambda part: indexes["flat"].search(part, k),
        "fast": lambda part: indexes["fast"].search(part, k),
        "faiss": lambda part: by_faiss(PLAIN_THRESHOLD, part),
    }
    if batch * vectors.shape[1] < PLAIN_THRESHOLD:
        searches["faiss_tuned"] = lambda part: by_faiss(OUR_THRESHOLD, part)
    parts = [queries[start : start + batch] for start in range(0, max(batch, len(queries) - batch + 1), batch)]
    spent = turns(searches, parts, rounds)
    report = {f"{name}_ms": round(value, 2) for name, value in spent.items()}
    for name, index in indexes.items():
        report[f"ratio_{name}"] = round(spent["faiss"] / spent[name], 3)
        if "faiss_tuned" in spent:
            report[f"ratio_{name}_tuned"] = round(spent["faiss_tuned"] / spent[name], 3)
        report[f"recall_{name}"] = recall(index, vectors, queries[:512], k)
    return report


def turns(searches: dict[str, Callable[[Floats], Any]], parts: Sequence[Floats], rounds: int) -> dict[str, float]:
    """Median milliseconds a batch; a first round, in which copies are made, does not count."""
    spent: dict[str, list[float]] = {name: [] for name in searches}
    for number in range(rounds + 1):
        for part in parts:
            for name in searches if number % 2 else reversed(searches):
                start = time.perf_counter()
                searches[name](part)
                spent[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values[len(parts) :]) for name, values in spent.items()}


def recall(index: VectorIndex, vectors: Floats, queries: Floats, k: int) -> float:
    """Share of the k nearest by float64 that the index finds; of equals, the lower row is the nearer."""
    found = index.search(queries, k)[1]
    hits = 0
    for start in range(0, len(queries), 32):
        scores = (queries[start : start + 32].astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
        nearest = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        hits += sum(len(np.intersect1d(a, b)) for a, b in zip(nearest, found[start : start + 32], strict=True))
    return hits / (len(queries) * min(k, len(vectors)))


def worlds(chosen: argparse.Namespace) -> Iterator[tuple[str, Floats, Floats]]:
    """Name, vectors and queries of each comparison."""
    root = os.environ.get("MEDRAG_DATA")
    if root is not None:
        texts, asked = passages(Path(root) / "text", chosen.most)
        for dim in chosen.dims:
            yield f"real_tiny_{dim}", *by_tiny_encoder(texts, asked, dim)
            yield f"real_lsa_{dim}", *by_lsa(texts, asked, dim)
    for dim in chosen.dims:
        yield f"synthetic_{dim}", *clusters(chosen.synthetic, 2 * max(chosen.batches), dim)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs every comparison and prints one line of JSON last."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 1024], help="queries a call")
    parser.add_argument("--dims", type=int, nargs="+", default=[256, 768], help="the tiny encoder's width; that of Jina-CLIP")
    parser.add_argument("--synthetic", type=int, default=100_000, help="how many synthetic vectors")
    parser.add_argument("--most", type=int, help="only so many passages")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(argv)
    threads = torch.get_num_threads()
    faiss.omp_set_num_threads(threads)
    report: dict[str, Any] = {**vars(chosen), "threads": threads, "bfloat16_instructions": has_instructions()}
    for name, vectors, queries in worlds(chosen):
        for batch in chosen.batches:
            found = compare(vectors, queries[: 4 * batch], batch, chosen.k, chosen.rounds)
            print(f"{name}, {len(vectors)} vectors, {batch} queries a call: {found}", flush=True)
            report[f"{name}_{batch}"] = found
    kind = "real_" if any(key.startswith("real_") for key in report) else "synthetic_"
    compared = {key: found for key, found in report.items() if key.startswith(kind)}
    largest = [found for key, found in compared.items() if key.endswith(f"_{max(chosen.batches)}")]
    for name in ("flat", "fast"):
        report[f"ratio_{name}"] = min(found[f"ratio_{name}"] for found in largest)
        report[f"recall_{name}"] = min(found[f"recall_{name}"] for found in compared.values())
    print(json.dumps(report))


if __name__ == "__main__":
    main()
