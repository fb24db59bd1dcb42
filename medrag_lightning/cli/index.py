"""The verb `index`: a search index over an evidence store."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medrag_lightning.cli.outcome import tell
from medrag_lightning.cli.strict_arguments import parse_strictly
from medrag_lightning.records import Document

SHOWN = 12  # of a list; the store's manifest has all
KINDS = {"flat": "flat", "bf16": "bf16", "hnsw": "hnsw", "ivfpq": "ivf_pq", "ivf_pq": "ivf_pq"}


def run_index(arguments: Sequence[str]) -> None:
    """Builds the index that the arguments name, and says which files it wrote."""
    if any(word in ("-c", "--config") or word.startswith("--config=") for word in arguments):
        _index_of_configs(arguments)
        return
    parser = argparse.ArgumentParser(prog="medrag_lightning index", add_help=False, exit_on_error=False)
    parser.add_argument("--store", required=True)
    parser.add_argument("--kind", choices=list(KINDS), default="flat")
    usage = f"usage: index --store FOLDER [--kind {'|'.join(KINDS)}]"
    parsed = parse_strictly("index", parser, arguments, usage)
    if not Path(parsed.store).is_dir():
        raise ValueError(f"index: --store {parsed.store} is not a folder")
    import torch  # noqa: F401  (before faiss: two OpenMP runtimes deadlock the other way round)

    from medrag_lightning.retrieval.index import IndexConfig, build_index

    for path in build_index(Path(parsed.store), IndexConfig(kind=KINDS[parsed.kind])):  # type: ignore[arg-type]
        tell(str(path), sys.stdout)


def _index_of_configs(arguments: Sequence[str]) -> None:
    """The store and indexes that `data.source` of a configuration will search: vectors of `predict` are merged first."""
    if any(word.split("=")[0] in ("--store", "--kind") for word in arguments):
        raise ValueError("index: --store and --kind would be ignored beside -c, whose data.source says where and how to search")
    from medrag_lightning.cli.verbs import build_data

    data = build_data(arguments)
    data.prepare_data()
    tell(str(data.evidence_folder()), sys.stdout)
    for line in provenance(data.documents()):
        tell(line, sys.stdout)


def provenance(documents: Sequence[Document]) -> list[str]:
    """Where the documents come from, under which licences, of which modalities: a line each, the most frequent first."""
    told = [f"{len(documents):,} documents, {sum(document.image is not None for document in documents):,} with an image"]
    for name, plural in (("source", "sources"), ("license", "licences"), ("modality", "modalities")):
        counts = Counter(getattr(document, name) or "not stated" for document in documents)
        listed = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
        shown = [f"{value} {count:,}" for value, count in listed[:SHOWN]]
        more = [f"{len(listed) - SHOWN} more"] if len(listed) > SHOWN else []
        told.append(f"{plural}: {', '.join([*shown, *more])}")
    return told
