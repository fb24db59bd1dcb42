"""The verb `index`: a search index over an evidence store."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from medrag_lightning.cli.outcome import tell

KINDS = {"flat": "flat", "hnsw": "hnsw", "ivfpq": "ivf_pq", "ivf_pq": "ivf_pq"}


def run_index(arguments: Sequence[str]) -> None:
    """Builds the index that the arguments name, and says which files it wrote."""
    parser = argparse.ArgumentParser(prog="medrag_lightning index", add_help=False, exit_on_error=False)
    parser.add_argument("--store", required=True)
    parser.add_argument("--kind", choices=list(KINDS), default="flat")
    try:
        parsed, rest = parser.parse_known_args(arguments)
    except (argparse.ArgumentError, SystemExit) as error:
        raise ValueError(f"index: {error}; usage: index --store FOLDER [--kind {'|'.join(KINDS)}]") from error
    if rest:
        raise ValueError(f"index: not understood: {' '.join(rest)}")
    if not Path(parsed.store).is_dir():
        raise ValueError(f"index: --store {parsed.store} is not a folder")
    import torch  # noqa: F401  (before faiss: two OpenMP runtimes deadlock the other way round)

    from medrag_lightning.retrieval.index import IndexConfig, build_index

    for path in build_index(Path(parsed.store), IndexConfig(kind=KINDS[parsed.kind])):  # type: ignore[arg-type]
        tell(str(path), sys.stdout)
