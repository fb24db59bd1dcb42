"""The questions, documents and images behind a run, from the tables that its config names."""

from __future__ import annotations

import contextlib
import os
from argparse import ArgumentError
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from medrag_lightning.data.images import ImageStore
from medrag_lightning.handoff.report.run_files import Run
from medrag_lightning.records import Document, Query
from medrag_lightning.yaml_files import fill_in

NOT_THERE = "the run's tables could not be read where the report was made"


class HoldsRecords(Protocol):
    """What `interfaces.Table` asks of a table; said again, because that room imports torch, which takes seconds."""

    def queries(self) -> list[Query]:
        """Its questions."""
        ...

    def documents(self) -> list[Document]:
        """What of it may serve as evidence."""
        ...

    def roots(self) -> list[Path]:
        """The folders that its images lie under."""
        ...


@dataclass(frozen=True)
class World:
    """What the tables hold, by id; empty, with a `reason`, where they cannot be read. `problem`: the same for who made the
    report, with file names that it itself must not tell.
    """

    queries: Mapping[str, Query] = field(default_factory=dict)
    documents: Mapping[str, Document] = field(default_factory=dict)
    images: ImageStore | None = None
    reason: str = ""
    problem: str = ""


@contextlib.contextmanager
def started_in(run: Run) -> Iterator[None]:
    """Within it, relative paths of the run's config mean what they meant to the run."""
    base = run.base_folder()
    with contextlib.chdir(base) if base is not None else contextlib.nullcontext():
        yield


def read_world(run: Run) -> World:
    """The tables of the run's config, read again; call it within `started_in`."""
    told = run.setting("data", "tables"), run.setting("data", "corpus")
    if not all(told):
        return World(
            reason="the run left no config.yaml that names its tables", problem=f"{run.folder}: no data.tables in config"
        )
    variables = {**os.environ, "run_folder": str(run.folder)}
    try:
        tables, corpus = (_tables(fill_in(part, variables, str(run.folder / "config.yaml"))) for part in told)
        queries = {query.id: query for table in tables for query in table.queries()}
        documents = {document.id: document for table in corpus for document in table.documents()}
        roots = {root for table in (*tables, *corpus) for root in table.roots()}
    except (ValueError, OSError, ImportError, ArgumentError, TypeError) as error:
        return World(reason=NOT_THERE, problem=str(error))
    pixels = run.setting("data", "max_pixels")
    return World(queries, documents, ImageStore(sorted(roots), pixels) if pixels else ImageStore(sorted(roots)))


def _tables(told: Any) -> list[HoldsRecords]:
    """The tables that a part of a config describes, built as the command line builds them."""
    from jsonargparse import ArgumentParser  # here: slow to import, and not needed where there are no tables

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--tables", type=list[HoldsRecords])
    made: list[HoldsRecords] = parser.instantiate(parser.parse_object({"tables": told})).tables
    return made
