"""A BM25 index on disk, built in bounded memory and searched from memory maps by the library bm25s.

    lexical.json              schema, fingerprint, counts, sizes and sha256 of the files; written last
    lexical.vocabulary.json   each word and its number
    lexical.settings.json     what bm25s needs to open the index
    lexical.indptr.npy        where the entries of each word begin
    lexical.indices.npy       the texts that have the word, ascending, word by word
    lexical.data.npy          what the word adds to the score of that text

bm25s itself holds all words of a corpus as Python lists while it builds; `build_index` writes the same arrays, bit for bit,
from sorted parts on disk. A folder without ``lexical.json`` holds no index: the build that made it did not finish.
"""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.artifacts import atomic_write, read_manifest, sha256_file, write_json, write_manifest, write_npy
from medrag_lightning.disk import refusals_told
from medrag_lightning.retrieval.building import Report
from medrag_lightning.retrieval.words import Words, bm25s_library

logger = logging.getLogger(__name__)
SCHEMA = 1
MANIFEST, VOCABULARY, SETTINGS = "lexical.json", "lexical.vocabulary.json", "lexical.settings.json"
INDPTR, INDICES, DATA = "lexical.indptr.npy", "lexical.indices.npy", "lexical.data.npy"
SPILL = ".lexical.parts."
FILES = (VOCABULARY, SETTINGS, INDPTR, INDICES, DATA)
TEXTS_AT_ONCE = 20_000  # texts whose entries are sorted in memory
ENTRIES_AT_ONCE = 4_000_000  # entries of whole words that are merged in memory
ENTRY = np.dtype([("word", np.int32), ("text", np.int32), ("count", np.int32)])
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Bm25Settings:
    """The two constants of BM25.

    Args:
        k1: how soon a word's repetitions stop counting; at least 0.
        b: how much longer texts are marked down, in [0, 1].

    The defaults are those of Anserini and Pyserini, for passages.
    """

    k1: float = 0.9
    b: float = 0.4

    def __post_init__(self) -> None:
        if not (math.isfinite(self.k1) and self.k1 >= 0 and 0 <= self.b <= 1):
            raise ValueError(f"bm25 needs k1 >= 0 and b in [0, 1], got k1={self.k1}, b={self.b}")


class LexicalIndex:
    """An open index; its arrays are mapped, not read."""

    def __init__(self, folder: Path, manifest: dict[str, Any], engine: Any) -> None:
        self.folder, self.manifest, self._engine = folder, manifest, engine

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Whether a finished index lies in `folder`."""
        return (folder / MANIFEST).is_file()

    @classmethod
    def open(cls, folder: Path) -> LexicalIndex:
        """Maps a finished index; ValueError where it is unfinished, of another schema, or a file has another size."""
        if not cls.exists(folder):
            raise ValueError(f"{folder} holds no finished lexical index (no {MANIFEST}); build it again")
        manifest = read_manifest(folder / MANIFEST, _remedy(folder))
        if manifest.get("schema") != SCHEMA:
            raise ValueError(f"{folder}: schema {manifest.get('schema')!r} of the index is not {SCHEMA}; {_remedy(folder)}")
        for name in FILES:
            size = (folder / name).stat().st_size if (folder / name).is_file() else None
            if size != manifest["files"][name]["bytes"]:
                told = manifest["files"][name]["bytes"]
                raise ValueError(f"{folder / name} has {size} bytes, its manifest says {told}; {_remedy(folder)}")
        library = bm25s_library()
        names = {"data_name": DATA, "indices_name": INDICES, "indptr_name": INDPTR}
        try:
            engine = library.BM25.load(
                folder, **names, vocab_name=VOCABULARY, params_name=SETTINGS, mmap=True, show_progress=False
            )
        except (ValueError, KeyError, TypeError, EOFError) as error:
            raise ValueError(f"the lexical index {folder} is damaged ({error}); {_remedy(folder)}") from error
        return cls(folder, manifest, engine)

    def __len__(self) -> int:
        return int(self.manifest["texts"])

    @property
    def fingerprint(self) -> str:
        """What was given to `build_index`: the texts, how they became words, and the constants of BM25."""
        return str(self.manifest["fingerprint"])

    def verify(self) -> None:
        """Reads every file whole; ValueError that names the first damaged one."""
        for name, told in self.manifest["files"].items():
            if sha256_file(self.folder / name) != told["sha256"]:
                raise ValueError(f"{self.folder / name} is damaged: its sha256 is not the manifest's; {_remedy(self.folder)}")

    def scores(self, words: Iterable[str]) -> NDArray[np.float32]:
        """(N,) BM25 score of every text for a question's different words; 0 where it has none of them."""
        known = self._engine.get_tokens_ids(list(dict.fromkeys(words)))
        if not known:
            return np.zeros(len(self), np.float32)
        found: NDArray[np.float32] = self._engine.get_scores_from_ids(known)
        return found


def best_rows(scores_N: NDArray[np.float32], k: int) -> Integers:
    """The rows of the k highest scores above 0, best first, of equals the lower row first; fewer where there are fewer."""
    if k < len(scores_N):
        least = np.partition(scores_N, len(scores_N) - k)[len(scores_N) - k]
        rows = np.flatnonzero((scores_N >= least) & (scores_N > 0))
    else:
        rows = np.flatnonzero(scores_N > 0)
    return rows[np.argsort(-scores_N[rows], kind="stable")[:k]]


def build_index(
    folder: Path, texts: Iterable[str], count: int, words: Words, constants: Bm25Settings, fingerprint: str, report: Report
) -> LexicalIndex:
    """Writes the index of `count` texts; memory grows with the vocabulary and `TEXTS_AT_ONCE`, not with the corpus.

    Raises:
        ValueError: no text has a word that counts.
        OSError: the disk refused; no index is left.
    """
    with refusals_told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{SPILL}*"):  # of a killed build
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=SPILL, dir=folder, ignore_cleanup_errors=True) as spilled:
            vocabulary: dict[str, int] = {}
            length_N = np.zeros(count, np.int64)
            parts = _spill(Path(spilled), texts, words, vocabulary, length_N, report)
            if not vocabulary:
                raise ValueError("no text has a word that a lexical search could find: all are stop words or signs")
            _merge(folder, parts, len(vocabulary), length_N, constants)
    write_json(folder / VOCABULARY, vocabulary)
    write_json(folder / SETTINGS, _settings(constants, count))
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)} for name in FILES}
    told = {"schema": SCHEMA, "fingerprint": fingerprint, "texts": count, "words": len(vocabulary), "files": files}
    write_manifest(folder / MANIFEST, told)
    return LexicalIndex.open(folder)


def copy_index(old: LexicalIndex, folder: Path, fingerprint: str) -> LexicalIndex:
    """Copies an index to `folder`, for the same texts under other names (`fingerprint`); compares every byte."""
    with refusals_told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(old.folder / name, folder / name)
    write_manifest(folder / MANIFEST, old.manifest | {"fingerprint": fingerprint})
    made = LexicalIndex.open(folder)
    made.verify()
    return made


def _spill(
    folder: Path, texts: Iterable[str], words: Words, vocabulary: dict[str, int], length_N: Integers, report: Report
) -> list[Path]:
    """Files of entries, each sorted by word and then text; fills `vocabulary`, and `length_N` with the texts' words."""
    paths: list[Path] = []
    waiting: list[NDArray[Any]] = []
    for number, text in enumerate(texts):
        found = words.split(text)
        length_N[number] = len(found)
        counted = Counter(found)
        rows = np.empty(len(counted), ENTRY)
        rows["word"] = [vocabulary.setdefault(word, len(vocabulary)) for word in counted]
        rows["text"], rows["count"] = number, list(counted.values())
        waiting.append(rows)
        if len(waiting) == TEXTS_AT_ONCE or number == len(length_N) - 1:
            entries = np.concatenate(waiting)
            paths.append(folder / f"{len(paths)}.entries")
            entries[np.argsort(entries["word"], kind="stable")].tofile(paths[-1])
            waiting = []
            report.done(number + 1)
    return paths


def _merge(folder: Path, parts: Sequence[Path], words: int, length_N: Integers, constants: Bm25Settings) -> None:
    """The three arrays of the index, from the sorted parts, as many whole words at a time as memory allows."""
    begins = [_begins(part, words) for part in parts]
    frequency_V = np.sum([np.diff(begin) for begin in begins], axis=0)
    indptr = np.concatenate([[0], np.cumsum(frequency_V)]).astype(np.int64)
    total = int(indptr[-1])
    # As bm25s does: the logarithm in float64, kept in float32, multiplied in float64, kept in float32.
    texts = len(length_N)
    inverse_V = np.array([math.log(1 + (texts - df + 0.5) / (df + 0.5)) for df in frequency_V.tolist()], np.float32)
    marked_N = constants.k1 * ((1 - constants.b) + constants.b * length_N / length_N.mean())
    write_npy(folder / INDPTR, indptr)
    with atomic_write(folder / INDICES) as indices, atomic_write(folder / DATA) as data:
        for stream, kind in ((indices, "<i4"), (data, "<f4")):
            header = {"descr": kind, "fortran_order": False, "shape": (total,)}
            np.lib.format.write_array_header_1_0(stream, header)
        first = 0
        while first < words:
            last = max(first + 1, int(np.searchsorted(indptr, indptr[first] + ENTRIES_AT_ONCE, "right")) - 1)
            entries = np.concatenate([_between(part, begin, first, last) for part, begin in zip(parts, begins, strict=True)])
            entries = entries[np.argsort(entries["word"], kind="stable")]
            counts = entries["count"].astype(np.float32)
            score = inverse_V[entries["word"]] * (counts / (marked_N[entries["text"]] + counts))
            indices.write(entries["text"].astype("<i4").tobytes())
            data.write(score.astype("<f4").tobytes())
            first = last


def _begins(part: Path, words: int) -> Integers:
    """(V + 1,) where each word's entries begin in a part."""
    found = np.memmap(part, ENTRY, "r") if part.stat().st_size else np.empty(0, ENTRY)
    counted = np.zeros(words, np.int64)
    for start in range(0, len(found), ENTRIES_AT_ONCE):
        counted += np.bincount(found["word"][start : start + ENTRIES_AT_ONCE], minlength=words)
    return np.concatenate([[0], np.cumsum(counted)]).astype(np.int64)


def _between(part: Path, begin: Integers, first: int, last: int) -> NDArray[Any]:
    start, end = int(begin[first]), int(begin[last])
    return np.fromfile(part, ENTRY, count=end - start, offset=start * ENTRY.itemsize)


def _settings(constants: Bm25Settings, texts: int) -> dict[str, Any]:
    """The constructor arguments of bm25s, as it writes them itself."""
    told = {"delta": 0.5, "method": "lucene", "idf_method": "lucene", "dtype": "float32", "int_dtype": "int32"}
    return {"k1": constants.k1, "b": constants.b, **told, "num_docs": texts, "backend": "numpy"}


def _remedy(folder: Path) -> str:
    return f"delete {folder} to have it built again, or choose another folder"
