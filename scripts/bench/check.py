"""How long `check` takes over a hospital's images: made here, untimed, then looked at for faults and for leaks.

    python scripts/bench/check.py                       10,000 pictures of about 512 px, half PNG, half JPEG
    python scripts/bench/check.py --images 500 --px 128

The pictures are smooth with noise on top, grey and coloured, so that decoding costs what it costs on films. One in a thousand
is broken. The last line is JSON; its processor seconds are those of all processes, whatever else the machine did.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medrag_lightning.data.audit.faults import Faults, find_faults
from medrag_lightning.data.audit.progress import telling
from medrag_lightning.data.audit.table_reading import NamedTable
from medrag_lightning.data.tables import JsonlQueries

BROKEN_EVERY = 1000
TEXTURES = 8


def draw(number: int, folder: Path, px: int) -> None:
    """One picture: smooth shapes of its own, noise, about `px` pixels a side."""
    rng = np.random.default_rng(number)
    size = (px + number % 17, px - number % 13)
    channels = 3 if number % 4 == 0 else 1
    coarse = rng.integers(0, 256, (12, 12, channels), dtype=np.uint8)
    smooth = Image.fromarray(coarse[..., 0] if channels == 1 else coarse).resize(size, Image.Resampling.BICUBIC)
    noise = texture(number % TEXTURES, px + 17)[: size[1], : size[0], :channels]
    values = np.asarray(smooth).reshape(size[1], size[0], channels).astype(np.int16) + noise
    image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8).squeeze())
    path = folder / name_of(number)
    image.save(path, quality=85) if path.suffix == ".jpg" else image.save(path, compress_level=1)
    if number % BROKEN_EVERY == BROKEN_EVERY - 1:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@functools.lru_cache(maxsize=TEXTURES)
def texture(number: int, px: int) -> NDArray[np.int16]:
    """Noise of -6 to 6, (px, px, 3)."""
    return np.random.default_rng(number).integers(-6, 7, (px, px, 3), dtype=np.int16)


def name_of(number: int) -> str:
    """The file of a picture."""
    return f"{number:06}." + ("jpg" if number % 2 else "png")


def make(folder: Path, images: int, px: int) -> Path:
    """The pictures, and a table with a question about each."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for _ in pool.map(partial(draw, folder=folder, px=px), range(images), chunksize=64):
            pass
    rows = []
    for number in range(images):
        split = ("train", "train", "train", "val", "test")[number % 5]
        row: dict[str, Any] = {"id": f"q{number}", "image": name_of(number), "split": split, "patient_id": f"p{number}"}
        row |= {"question": "is there an effusion?", "answer": ("yes", "no")[number // 5 % 2], "choices": ["yes", "no"]}
        rows.append(json.dumps(row) + "\n")
    (folder / "all.jsonl").write_text("".join(rows), encoding="utf-8")
    return folder / "all.jsonl"


def look_for_leaks(faults: Faults) -> int | None:
    """How many leaks there are; None where this version cannot tell."""
    if importlib.util.find_spec("medrag_lightning.data.audit.leaks") is None:
        return None
    from medrag_lightning.data.audit.leaks import find_leaks  # type: ignore[import-not-found,import-untyped,unused-ignore]

    return len(find_leaks(faults.queries, faults.corpus, faults.facts))


def processor_seconds() -> float:
    """Of this process and those that it has ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main(argv: Sequence[str] | None = None) -> None:
    """Makes the pictures, looks, and prints one line of JSON last."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--px", type=int, default=512)
    parser.add_argument("--workers", type=int, default=None)
    chosen = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="medrag-bench-check-") as name:
        began = time.perf_counter()
        table = make(Path(name), chosen.images, chosen.px)
        print(f"{chosen.images} pictures made in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        began, before = time.perf_counter(), processor_seconds()
        named = NamedTable(JsonlQueries(str(table), check_images=False), str(table), frozenset(["tables", "corpus"]))
        faults = find_faults([named], workers=chosen.workers, telling=telling)
        middle = time.perf_counter()
        spent = processor_seconds()
        leaks = look_for_leaks(faults)
        ended = time.perf_counter()
    report = {
        "images": len(faults.facts),
        "seconds_faults": round(middle - began, 2),
        "seconds_leaks": None if leaks is None else round(ended - middle, 2),
        "seconds": round(ended - began, 2),
        "images_per_second": round(len(faults.facts) / (middle - began)),
        "faults_found": sum(one.fault is not None for one in faults.facts.values()),
        "faults_planted": chosen.images // BROKEN_EVERY,
        "leaks": leaks,
        "processor_seconds_faults": round(spent - before, 2),
        "processors": len(os.sched_getaffinity(0)),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
