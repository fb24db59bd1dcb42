"""Every fault of a data set at once: of files, rows, records and images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medrag_lightning.data.audit.file_faults import file_findings
from medrag_lightning.data.audit.findings import Finding
from medrag_lightning.data.audit.image_faults import image_findings
from medrag_lightning.data.audit.image_pass import ImageFacts, Progress, image_facts
from medrag_lightning.data.audit.record_faults import (
    answer_findings,
    id_findings,
    repeat_findings,
    reuse_findings,
    split_findings,
    text_findings,
)
from medrag_lightning.data.audit.table_reading import NamedTable, Placed, Role, TableRead, read_tables
from medrag_lightning.records import Document, ImageRef, Query, Split

Telling = Callable[[str], AbstractContextManager[Progress | None]]
"""Shows progress under a name, such as `progress.telling`."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What was found, and what the leak audit goes on with.

    Attributes:
        findings: every fault and note.
        queries: the good questions, by split.
        corpus: the good documents of the evidence, of the setting `corpus` alone.
        pairs: the good documents of the setting `pair_tables`, which a retriever learns from.
        facts: of every image of questions and documents.
        counts: of what was looked at, to tell.
    """

    findings: list[Finding]
    queries: dict[Split, list[Query]]
    corpus: list[Document]
    pairs: list[Document]
    facts: dict[ImageRef, ImageFacts]
    counts: dict[str, int]


def find_faults(
    tables: Sequence[NamedTable],
    max_pixels: int = 50_000_000,
    only: Literal["closed", "open"] | None = None,
    workers: int | None = None,
    telling: Telling = lambda _: nullcontext(),
    cache_folder: str | Path | None = None,
) -> Faults:
    """Looks at all tables and their images; nothing stops it.

    Args:
        tables: those of a configuration.
        max_pixels: larger images are refused.
        only: which questions the configuration keeps.
        workers: processes that open images; None for one a processor.
        telling: shows how far the images are.
        cache_folder: keeps facts of images; None keeps nothing.
    """
    reads = read_tables(tables)
    asked = [one for one in _of(reads, "tables") if only in (None, str(getattr(one.record, "answer_type", "")))]
    corpus, pairs = _of(reads, "corpus"), _of(reads, "pair_tables")
    files = [path for read in reads for path in read.files]
    findings = _told_once(file_findings(files), [finding for read in reads for finding in read.findings])
    findings += id_findings(asked, "data.tables") + id_findings(corpus, "data.corpus") + id_findings(pairs, "data.pair_tables")
    findings += text_findings(_once([*asked, *corpus, *pairs]))
    askers = [read for read in reads if "tables" in read.roles]
    if askers and not any(read.failed for read in askers):
        findings += [*split_findings(asked), *answer_findings(asked)]
    findings += repeat_findings(asked)
    findings += reuse_findings(asked, "questions")
    rows: dict[ImageRef, list[str]] = defaultdict(list)
    for one in [*asked, *corpus, *pairs]:
        if one.image is not None:
            rows[one.image].append(one.where)
    roots = sorted({root for read in reads if read.roles - {"own_reports"} for root in read.roots})
    with telling("images") as progress:
        facts = image_facts(list(rows), roots, max_pixels, workers, progress, cache_folder)
    findings += image_findings(facts, rows)
    counts = {"questions": len(asked), "documents": len(_once([*corpus, *pairs])), "images": len(rows)}
    return Faults(findings, _by_split(asked), _documents(corpus), _documents(pairs), facts, counts)


def _documents(placed: Sequence[Placed]) -> list[Document]:
    return [one.record for one in placed if isinstance(one.record, Document)]


def _of(reads: Sequence[TableRead], role: Role) -> list[Placed]:
    """The questions (for `tables`) or documents of every table with that role, in order."""
    return [one for read in reads if role in read.roles for one in (read.queries if role == "tables" else read.documents)]


def _once(placed: Sequence[Placed]) -> list[Placed]:
    """Without the second record of a row that serves as question and as document."""
    seen: set[tuple[str, str, str]] = set()
    kept = []
    for one in placed:
        key = (one.where, one.id, type(one.record).__name__)
        if key not in seen:
            seen.add(key)
            kept.append(one)
    return kept


def _told_once(of_files: Sequence[Finding], of_rows: Sequence[Finding]) -> list[Finding]:
    """Both, without what parsers say of lines that are not UTF-8: the bytes of the file have told that line by line."""
    foreign = {one.where.rpartition(":")[0]: one for one in of_files if one.kind == "not_utf8"}
    utf16 = {path for path, one in foreign.items() if one.what.startswith("the file is")}
    kept = [
        one
        for one in of_rows
        if (path := one.where.rpartition(":")[0]) not in utf16 and not (one.kind == "not_utf8" and path in foreign)
    ]
    return list(dict.fromkeys([*of_files, *kept]))


def _by_split(asked: Sequence[Placed]) -> dict[Split, list[Query]]:
    split: dict[Split, list[Query]] = {name: [] for name in Split}
    for one in asked:
        if isinstance(one.record, Query):
            split[one.record.split].append(one.record)
    return split
