"""A large generated text corpus: both indexes are built in bounded memory, and answer from memory maps.

Texts of about 800 characters, words by Zipf's law, are made when they are asked for and never all held; building and asking
happen in processes of their own, whose peak memory (resident set, libraries and mapped pages included) is told. Lexical:
LexicalSearch. Dense: LiveSearch over an IVF-PQ index of 64-wide vectors in float16, which a made-up encoder gives: only size
and speed are measured here, not quality. Every question is a few words of one text (dense: all of them); `found` is the share
whose text is among the first 10. The last line is JSON.

    python scripts/bench/million.py                      # a million texts, 2 GB
    python scripts/bench/million.py --count 100000
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medrag_lightning.artifacts import counter_rng, fingerprint
from medrag_lightning.records import Document, ImageRef, Query
from medrag_lightning.retrieval.index import IndexConfig
from medrag_lightning.retrieval.lexical import LexicalSearch
from medrag_lightning.retrieval.source import LiveSearch
from medrag_lightning.retrieval.words import WordSettings

BLOCK, WORDS, VOCABULARY, TOP, ASKED = 20, 120, 200_000, 10, 200
LIMIT_MIB = 2048


class Generated(Sequence[Document]):
    """So many made-up texts, made a block at a time; the same number always gives the same text."""

    def __init__(self, count: int) -> None:
        self.total = count
        self._block = lru_cache(maxsize=64)(self._made)

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[Document]:
        return (self[row] for row in range(self.total))

    @overload
    def __getitem__(self, row: int) -> Document: ...
    @overload
    def __getitem__(self, row: slice) -> list[Document]: ...
    def __getitem__(self, row: int | slice) -> Document | list[Document]:
        """The document, or some."""
        if isinstance(row, slice):
            return [self[at] for at in range(*row.indices(self.total))]
        if not 0 <= row < self.total:
            raise IndexError(row)
        return Document(f"t{row}", self._block(row // BLOCK)[row % BLOCK], source="generated")

    @staticmethod
    def _made(block: int) -> list[str]:
        """Words by Zipf's law: the r-th commonest has a share of 1 / r."""
        drawn = counter_rng(0, "million", block).random((BLOCK, WORDS))
        ranks = np.exp(drawn * np.log(VOCABULARY)).astype(int)
        return [" ".join(f"w{rank:x}" for rank in row) for row in ranks.tolist()]


class WordVectors:
    """A made-up encoder of a text: the sum of random vectors of its words, rarer ones longer."""

    dim, shared_space = 64, False

    def __init__(self) -> None:
        self._table = np.random.default_rng(0).standard_normal((1 << 14, self.dim)).astype(np.float32)

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """There are none."""
        return np.zeros((len(images), self.dim), np.float32)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(B, 64) unit vectors."""
        made = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            words = text.split()
            rows = [zlib.crc32(word.encode()) % len(self._table) for word in words]
            made[row] = np.array([len(word) for word in words], np.float32) ** 2 @ self._table[rows]
        lengths: NDArray[np.float32] = np.linalg.norm(made, axis=1, keepdims=True)
        return np.divide(made, lengths, dtype=np.float32)

    def describe(self) -> dict[str, str]:
        """Nothing can differ."""
        return {"name": "WordVectors"}

    def fingerprint(self) -> str:
        """Always the same."""
        return fingerprint("word vectors")


def no_images(ref: ImageRef) -> Image.Image:
    """There are none."""
    raise ValueError(f"{ref}: texts have no images")


def source_of(kind: str) -> Any:
    """What is measured."""
    if kind == "lexical":
        return LexicalSearch(TOP, WordSettings("none", "none"))
    return LiveSearch(WordVectors(), {"text_to_text": TOP}, IndexConfig("ivf_pq", pq_bytes=32), "float16", batch_size=1024)


def peak_mib() -> float:
    """Most memory that this process has held."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 0)


def built(kind: str, count: int, folder: Path) -> dict[str, Any]:
    """Builds the index; seconds and peak memory."""
    started, before, spent = time.perf_counter(), peak_mib(), time.process_time()
    source_of(kind).prepare(Generated(count), no_images, folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    seconds = round(time.perf_counter() - started, 1)
    told = {"build_seconds": seconds, "build_cpu_seconds": round(time.process_time() - spent, 1)}
    return told | {"build_peak_mib": peak_mib(), "libraries_mib": before, "disk_mib": round(size / 2**20)}


def asked(kind: str, count: int, folder: Path) -> dict[str, Any]:
    """Opens the index and asks; milliseconds of one question alone, and when first asked, its texts' making included."""
    started, documents, source = time.perf_counter(), Generated(count), source_of(kind)
    source.load(documents, no_images, folder)
    load_seconds = time.perf_counter() - started
    rows = np.linspace(0, count - 1, ASKED).astype(int).tolist()
    queries = [Query(f"q{row}", " ".join(documents[row].text.split()[: 8 if kind == "lexical" else WORDS])) for row in rows]
    first: list[float] = []
    again: list[float] = []
    found = 0
    for row, query in zip(rows, queries, strict=True):
        for spent in (first, again):
            started = time.perf_counter()
            (one,) = source.retrieve([query])
            spent.append(1000 * (time.perf_counter() - started))
        found += f"t{row}" in [candidate.id for candidate in one.candidates]
    told = {"query_ms_median": round(float(np.median(again)), 2), "query_ms_p95": round(float(np.quantile(again, 0.95)), 2)}
    told["first_query_ms_median"] = round(float(np.median(first)), 2)
    return told | {"load_seconds": round(load_seconds, 1), "ask_peak_mib": peak_mib(), "found": round(found / len(rows), 3)}


def child(step: str, kind: str, count: int, folder: Path) -> dict[str, Any]:
    """What a step tells that runs in a process of its own."""
    command = [sys.executable, __file__, "--step", step, "--kinds", kind, "--count", str(count), "--folder", str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{ended.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    print(f"{kind} {step}: {told}", flush=True)
    return told


def main(argv: Sequence[str] | None = None) -> None:
    """Builds and asks; prints one line of JSON last."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000, help="texts")
    parser.add_argument("--kinds", nargs="+", choices=("lexical", "dense"), default=["lexical", "dense"])
    parser.add_argument("--folder", type=Path, help="where the indexes are built; by default a temporary folder")
    parser.add_argument("--step", choices=("build", "ask"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(argv)
    if chosen.step:
        step = built if chosen.step == "build" else asked
        print(json.dumps(step(chosen.kinds[0], chosen.count, chosen.folder)))
        return
    told: dict[str, Any] = {"texts": chosen.count}
    with tempfile.TemporaryDirectory(dir=chosen.folder) as scratch:
        for kind in chosen.kinds:
            folder = Path(scratch) / kind
            both = child("build", kind, chosen.count, folder) | child("ask", kind, chosen.count, folder)
            told |= {f"{kind}_{name}": value for name, value in both.items()}
    peaks = [value for name, value in told.items() if name.endswith("peak_mib")]
    told["bounded"] = max(peaks) <= LIMIT_MIB
    print(json.dumps(told))


if __name__ == "__main__":
    main()
