"""Arrays that are dear to compute, kept on disk under what they depend on, and read memory-mapped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrag_lightning.artifacts import fingerprint, read_manifest, sha256_file, write_manifest, write_npy

logger = logging.getLogger(__name__)
SCHEMA = 1


def cached_array(
    folder: str | Path | None, name: str, depends_on: Mapping[str, Any], make: Callable[[], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """The array that `make` gives, from ``FOLDER/NAME-KEY.npy`` where an earlier run has kept it.

    KEY stands for `depends_on`, so anything else gets another file. Written atomically, the manifest ``NAME-KEY.json`` last;
    a file whose bytes are not those of its manifest is made again.

    Args:
        folder: where arrays are kept; None keeps nothing.
        name: says what it is.
        depends_on: everything that the values depend on, as plain JSON.
        make: computes it.
    """
    if folder is None:
        return make()
    path = Path(folder) / f"{name}-{fingerprint(SCHEMA, name, dict(depends_on))[:16]}.npy"
    manifest = path.with_suffix(".json")
    if manifest.is_file() and path.is_file():
        if _told(manifest) == sha256_file(path):
            return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]
        logger.warning("%s is damaged; it is made again", path)
    write_npy(path, make())
    write_manifest(manifest, {"schema": SCHEMA, "depends_on": dict(depends_on), "sha256": sha256_file(path)})
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def _told(manifest: Path) -> Any:
    """The digest that a manifest tells; None where it is damaged itself."""
    try:
        return read_manifest(manifest, "it is made again")["sha256"]
    except (ValueError, KeyError):
        return None
