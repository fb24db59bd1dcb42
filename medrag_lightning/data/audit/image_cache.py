"""Facts about images that an earlier look has found, kept by path, size and time of change of each file."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.artifacts import atomic_write, fingerprint
from medrag_lightning.data.arrays import DAMAGE
from medrag_lightning.data.audit.image_facts import ImageFacts
from medrag_lightning.records import ImageRef

SCHEMA = 1
WRITE_EVERY_SECONDS = 30.0
WRITE_SHARE = 0.05  # of the time, at most
FIELDS = ("size_px", "bytes_sha256", "pixels_sha256", "kind", "remark")


class ImageCache:
    """Facts by image, read from and written to one file of a folder; without a folder, nothing is kept.

    Only sound images are kept: a broken one is looked at again, for what it lacked may be there now (a decoder). Of file names
    only digests are kept. Writing is atomic, now and then and at the end, so that an interrupted look goes on where it was.

    Args:
        folder: where the file lies.
        max_pixels, roots: facts found under other limits are not used.
    """

    def __init__(self, folder: str | Path | None, max_pixels: int, roots: list[str]) -> None:
        name = f"image_facts-{fingerprint(SCHEMA, max_pixels, sorted(roots))[:16]}.npz"
        self.path = None if folder is None else Path(folder) / name
        self._kept: dict[str, tuple[dict[str, Any], NDArray[np.uint8]]] = {}
        self._keys: dict[ImageRef, str | None] = {}
        self._stats: dict[str, str | None] = {}
        self._changed, self._next_write = False, time.monotonic() + WRITE_EVERY_SECONDS
        if self.path is not None and self.path.is_file():
            self._read(self.path)

    def get(self, ref: ImageRef) -> ImageFacts | None:
        """What is known of the file as it is now; None for nothing."""
        key = self._key(ref)
        if key is None or key not in self._kept:
            return None
        told, thumbnail = self._kept[key]
        return ImageFacts(ref, thumbnail_HW=thumbnail, **told)

    def put(self, facts: ImageFacts) -> None:
        """Keeps the facts of a sound image."""
        key = self._key(facts.ref)
        if key is None or facts.fault is not None or facts.thumbnail_HW is None:
            return
        self._kept[key] = {name: getattr(facts, name) for name in FIELDS}, facts.thumbnail_HW
        self._changed = True
        if time.monotonic() > self._next_write:
            self._write()

    def __enter__(self) -> ImageCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._changed:
            self._write()

    def _key(self, ref: ImageRef) -> str | None:
        if self.path is None:
            return None
        if ref not in self._keys:
            if ref.path not in self._stats:
                self._stats[ref.path] = _stat(ref.path)
            stat = self._stats[ref.path]
            told = None if stat is None else f"{ref}\0{stat}"
            self._keys[ref] = None if told is None else hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()
        return self._keys[ref]

    def _read(self, path: Path) -> None:
        """A damaged file is as good as none: everything is looked at again."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                table: Mapping[str, Any] = json.loads(arrays["facts"].tobytes())
                thumbnails = arrays["thumbnails"]
            for number, (key, told) in enumerate(table.items()):
                told["size_px"] = tuple(told["size_px"])
                self._kept[key] = {name: told[name] for name in FIELDS}, thumbnails[number]
        except (*DAMAGE, KeyError, TypeError, IndexError):
            self._kept = {}

    def _write(self) -> None:
        assert self.path is not None
        began = time.monotonic()
        table = {key: told for key, (told, _) in self._kept.items()}
        with atomic_write(self.path) as stream:
            np.savez(
                stream,
                allow_pickle=False,
                facts=np.frombuffer(json.dumps(table).encode(), np.uint8),
                thumbnails=np.stack([thumbnail for _, thumbnail in self._kept.values()]),
            )
        now = time.monotonic()
        self._changed, self._next_write = False, now + max(WRITE_EVERY_SECONDS, (now - began) / WRITE_SHARE)


def _stat(path: str) -> str | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - of many files; takes names that pathlib refuses
    except (OSError, ValueError):
        return None
    return f"{found.st_size} {found.st_mtime_ns}"
