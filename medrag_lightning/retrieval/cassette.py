"""Recorded web searches: a JSONL file that is replayed, so that a run finds the same pages and opens no connection.

A line is one search: ``{"words": ..., "count": 5, "pages": [{"url", "title", "text", "fetched", "license"}, ...]}``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from medrag_lightning.artifacts import file_fault, fingerprint, write_jsonl
from medrag_lightning.interfaces import WebFetcher, WebPage

logger = logging.getLogger(__name__)
Recorded = dict[str, tuple[int, list[WebPage]]]
AT_ONCE = 20  # searches between two writes


class CassetteFetcher:
    """Replays recorded searches; `interfaces.WebFetcher`. It opens no connection.

    Args:
        file: the recording, made by `RecordingFetcher` or by hand.
        unknown: what words give that nobody recorded: an ``error``, or ``nothing``, which is counted in the log.
    """

    def __init__(self, file: str, unknown: Literal["error", "nothing"] = "error") -> None:
        if unknown not in ("error", "nothing"):
            raise ValueError(f"unknown must be error or nothing, got {unknown!r}")
        self.file, self.unknown = Path(file), unknown
        self._recorded: Recorded | None = None

    def fetch(self, words: Sequence[str], count: int) -> list[list[WebPage] | None]:
        """The recorded pages; ValueError where words were not recorded (or with fewer pages), with the first of them."""
        recorded = self._read()
        missing = [one for one in words if _key(one) not in recorded or recorded[_key(one)][0] < count]
        if missing and self.unknown == "error":
            raise ValueError(
                f"{self.file} holds no recording of {len(missing)} of {len(words)} searches for {count} pages, the first "
                f"{missing[0]!r}: record them with RecordingFetcher around a fetcher that may search, or set unknown: nothing"
            )
        if missing:
            logger.warning("%s: %d of %d searches were not recorded and find nothing", self.file, len(missing), len(words))
        return [recorded[_key(one)][1][:count] if _key(one) in recorded else [] for one in words]

    def fingerprint(self) -> str:
        """Of every recorded search."""
        told = [[words, count, [asdict(page) for page in pages]] for words, (count, pages) in sorted(self._read().items())]
        return fingerprint("cassette", told, self.unknown)

    def _read(self) -> Recorded:
        if self._recorded is None:
            self._recorded = read_cassette(self.file)
        return self._recorded


class RecordingFetcher:
    """Records what another fetcher finds, and asks it for nothing twice; `interfaces.WebFetcher`.

    The file is written whole and in one step after every 20 searches and at the end, so that an interruption loses at most
    these. A search that failed is not recorded: the next run tries again. With everything recorded no connection is opened.

    Args:
        fetcher: what searches.
        file: the recording; `CassetteFetcher` replays it.
    """

    def __init__(self, fetcher: WebFetcher, file: str) -> None:
        self.fetcher, self.file = fetcher, Path(file)
        self._recorded: Recorded | None = None

    def fetch(self, words: Sequence[str], count: int) -> list[list[WebPage] | None]:
        """The pages recorded, or those that are found now."""
        if self._recorded is None:
            self._recorded = read_cassette(self.file) if self.file.exists() else {}
        known = self._recorded
        missing: dict[str, str] = {}
        for one in words:
            if _key(one) not in known or known[_key(one)][0] < count:
                missing.setdefault(_key(one), one)
        asked = list(missing.values())
        failed: set[str] = set()
        for start in range(0, len(asked), AT_ONCE):
            part = asked[start : start + AT_ONCE]
            for one, pages in zip(part, self.fetcher.fetch(part, count), strict=True):
                if pages is None:
                    failed.add(_key(one))
                else:
                    known[_key(one)] = (count, list(pages))
            self._write(known)
        return [None if _key(one) in failed else known[_key(one)][1][:count] for one in words]

    def fingerprint(self) -> str:
        """The fetcher's: what it finds is the same whether it is recorded or not."""
        return self.fetcher.fingerprint()

    def _write(self, known: Recorded) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"words": one, "count": count, "pages": [asdict(page) for page in pages]} for one, (count, pages) in known.items()
        ]
        write_jsonl(self.file, rows)


def read_cassette(file: Path) -> Recorded:
    """Every recorded search, by its words; ValueError names file and line of a bad one."""
    if fault := file_fault(file):
        raise ValueError(f"{file} {fault}" if file.exists() else f"{file}: no such cassette; record one with RecordingFetcher")
    found: Recorded = {}
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            if line.strip():
                words, count, pages = _search(json.loads(line))
                if _key(words) in found:
                    raise ValueError(f"the words {words!r} were already recorded")
                found[_key(words)] = (count, pages)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}:{number}: no recorded search: {error}") from error
    return found


def _search(told: Any) -> tuple[str, int, list[WebPage]]:
    if not isinstance(told, dict) or not isinstance(told.get("pages"), list) or not str(told.get("words", "")).strip():
        raise ValueError('a search is {"words": ..., "count": ..., "pages": [...]}')
    count = told.get("count", len(told["pages"]))
    if not isinstance(count, int) or count < len(told["pages"]):
        raise ValueError(f"count must be a number of at least its {len(told['pages'])} pages, got {count!r}")
    return str(told["words"]), count, [_page(page) for page in told["pages"]]


def _page(told: Any) -> WebPage:
    fields = ("url", "title", "text", "fetched", "license")
    if not isinstance(told, Mapping) or not all(isinstance(told.get(name, ""), str) for name in fields) or not told.get("url"):
        raise ValueError(f"a page has {', '.join(fields)}, all texts, and a url at least")
    return WebPage(**{name: told.get(name, "") for name in fields})


def _key(words: str) -> str:
    """By what two searches are the same: case and spaces do not matter."""
    return " ".join(words.casefold().split())
