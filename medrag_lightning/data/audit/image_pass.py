"""One pass over all images: what is wrong with each, its size, digests, and a small grey thumbnail to compare it by."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import sys
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medrag_lightning.data.audit.image_cache import ImageCache
from medrag_lightning.data.audit.image_facts import THUMBNAIL_PX, ImageFacts
from medrag_lightning.data.audit.image_probe import explain_refusal, misnamed
from medrag_lightning.data.images import ImageStore
from medrag_lightning.records import ImageRef

__all__ = ["THUMBNAIL_PX", "ImageFacts", "facts_of", "image_facts"]
CHUNK = 32  # images a task; items of one array file stay together, so that one process unpacks it once
ALONE = 64  # so few images are not worth other processes
Progress = Callable[[int, int], None]


def image_facts(
    refs: Iterable[ImageRef],
    roots: Sequence[str | Path],
    max_pixels: int = 50_000_000,
    workers: int | None = None,
    progress: Progress | None = None,
    cache_folder: str | Path | None = None,
) -> dict[ImageRef, ImageFacts]:
    """The facts of each distinct image, in the order of `refs`. Every image is opened once, as `ImageStore` opens it.

    Args:
        refs: images; repeats are looked at once.
        roots: the folders that they may lie under.
        max_pixels: larger ones are refused before they are decoded.
        workers: processes; None for one a processor, 0 or 1 for none beside this one.
        progress: is told how many are done, of how many.
        cache_folder: keeps the facts of files, by path, size and time of change; None keeps nothing.
    """
    distinct = list(dict.fromkeys(refs))
    cache = ImageCache(cache_folder, max_pixels, [str(Path(root).resolve()) for root in roots])
    found = {ref: kept for ref in distinct if (kept := cache.get(ref)) is not None}
    missing = [ref for ref in distinct if ref not in found]
    count = _processors() if workers is None else workers
    store = ImageStore(roots, max_pixels)
    passing = _in_pool(missing, store, count) if count > 1 and len(missing) > ALONE else _here(missing, store)
    done = len(found)
    with cache:
        for facts in passing:
            found[facts.ref] = facts
            cache.put(facts)
            done += 1
            if progress is not None:
                progress(done, len(distinct))
    return {ref: found[ref] for ref in distinct}


def facts_of(ref: ImageRef, image: Image.Image) -> ImageFacts:
    """The facts of an image that is open as RGB."""
    pixels = np.asarray(image.convert("RGB"))
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    raw = digest
    kind = remark = None
    if ref.array is None:
        data = Path(ref.path).read_bytes()
        raw = hashlib.sha256(data).hexdigest()
        remark = misnamed(Path(ref.path).suffix, data[:512])
        kind = "image_misnamed" if remark else None
    if all(low == high for low, high in Image.fromarray(pixels).getextrema()):  # type: ignore[misc]
        kind, remark = "image_blank", "every pixel of the image has the same colour"
    small = _thumbnail(image.convert("L"))
    return ImageFacts(ref, None, image.size, raw, digest, small, kind, remark)


def _thumbnail(grey: Image.Image) -> NDArray[np.uint8]:
    shrunk = min(grey.size) >= THUMBNAIL_PX
    how = Image.Resampling.BOX if shrunk else Image.Resampling.BICUBIC
    return np.asarray(grey.resize((THUMBNAIL_PX, THUMBNAIL_PX), how))


def _look(ref: ImageRef, store: ImageStore) -> ImageFacts:
    """The facts of one image, whatever is wrong with it."""
    try:
        with _quiet():
            return facts_of(ref, store(ref))
    except MemoryError:
        return ImageFacts(ref, "the image does not fit into memory", kind="image_oversized")
    except (ValueError, OSError) as error:
        refusal = explain_refusal(ref, error, store.max_pixels)
        return ImageFacts(ref, refusal.what, refusal.size_px, kind=refusal.kind)


@contextmanager
def _quiet() -> Iterator[None]:
    """What decoders say of a broken file is told as a finding; their own words may quote it."""
    logger = logging.getLogger("pydicom")
    was, logger.propagate, nowhere = logger.propagate, False, logging.NullHandler()
    logger.addHandler(nowhere)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.propagate = was
        logger.removeHandler(nowhere)


def _here(refs: Sequence[ImageRef], store: ImageStore) -> Iterator[ImageFacts]:
    for ref in refs:
        yield _look(ref, store)


def _in_pool(refs: Sequence[ImageRef], store: ImageStore, workers: int) -> Iterator[ImageFacts]:
    """The same in other processes. A decoder that crashes takes its process along; then images are tried alone."""
    left = dict(enumerate(_chunks(refs)))
    for facts in _run(left, store, workers):
        yield from facts
    for chunk in left.values():  # what a crash left over: nobody knows which image it was
        part = {0: chunk}
        for facts in _run(part, store, 1):
            yield from facts
        for ref in chunk if part else ():
            alone = {0: [ref]}
            for facts in _run(alone, store, 1):
                yield from facts
            if alone:
                yield ImageFacts(ref, "the decoder crashed on the image", kind="image_corrupt")


def _run(left: dict[int, list[ImageRef]], store: ImageStore, workers: int) -> Iterator[list[ImageFacts]]:
    """The facts of each chunk as it is done; it is taken out of `left` then."""
    context = multiprocessing.get_context(_start_method())
    with ProcessPoolExecutor(min(workers, len(left)), context, _begin, (store,)) as pool:
        tasks: dict[Future[list[ImageFacts]], int] = {pool.submit(_look_at, chunk): number for number, chunk in left.items()}
        try:
            for task in as_completed(tasks):
                facts = task.result()
                del left[tasks[task]]
                yield facts
        except BrokenProcessPool:
            return
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_store: ImageStore | None = None  # of a pool's process


def _begin(store: ImageStore) -> None:
    global _store
    _store = store


def _look_at(refs: Sequence[ImageRef]) -> list[ImageFacts]:
    assert _store is not None
    return [_look(ref, _store) for ref in refs]


def _chunks(refs: Sequence[ImageRef]) -> list[list[ImageRef]]:
    """Files in small parts, every array file in one."""
    arrays: dict[str, list[ImageRef]] = defaultdict(list)
    files: list[ImageRef] = []
    for ref in refs:
        (arrays[ref.path] if ref.array is not None else files).append(ref)
    return [*arrays.values(), *(files[start : start + CHUNK] for start in range(0, len(files), CHUNK))]


def _start_method() -> str:
    """`fork` starts at once, but a process with threads may hang after it."""
    return "fork" if sys.platform == "linux" and threading.active_count() == 1 else "spawn"


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
