"""A folder of pages as evidence: HTML, Markdown and plain text, cut into sections and chunks (MIRA, text knowledge base).

What a page says about itself (``<title>``, ``<link rel="canonical">``, ``<link rel="license">``, ``<meta name="license">``; the
front matter of Markdown: ``title``, ``url``, ``license``) is kept. The file ``pages.jsonl`` in the folder says it for any page:

| key | | meaning |
|---|---|---|
| `file` | required | the page, relative to the folder |
| `title`, `url`, `license` | optional | in place of what the page says |
| `fetched` | optional | when the page was taken from there |
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medrag_lightning.artifacts import guard_path
from medrag_lightning.data.pages.page_file import READERS, read_page
from medrag_lightning.data.pages.section import Section
from medrag_lightning.data.row_files import read_rows
from medrag_lightning.data.rows import Row, misspelt_key, parse_rows
from medrag_lightning.data.tables.text_corpus import chunks
from medrag_lightning.records import Document, Query

LISTING = "pages.jsonl"
KEYS = ("file", "title", "url", "license", "fetched")
TEXTS_OF_OTHER_KINDS = (".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PageSection:
    """A section that is evidence, and what is known of its page."""

    page: str
    title: str
    origin: str
    license: str
    section: Section

    def lead(self) -> str:
        """Title and headings, which stand before every chunk: ``Pneumothorax, Causes: ``."""
        named = [self.title, *self.section.headings]
        told = ", ".join(dict.fromkeys(name for name in named if name))
        return f"{told}: " if told else ""


class Pages:
    """Evidence from a folder of pages (see the module's docstring). It asks nothing; nothing is fetched.

    A document is a chunk of one section, called ``NAME-FILE#SECTION``, with ``/CHUNK`` after it where a section has several.
    Sections are counted before any is left out, so that an id means one place of one page whatever else is in the folder.
    Markup is taken off here, once. Sections that are empty, say NaN and the like, or have no letter are left out and counted
    (`left_out`). Nothing is dropped later: each document has its row in the evidence store, and its vector that row's number.

    Args:
        folder: of the pages; folders inside it are read, too.
        chunk_chars: longest chunk, in characters, its title and headings aside.
        overlap_chars: characters that a chunk shares with the one before.
        titles: whether chunks begin with the title of the page and the headings.
        license: of pages that name none; they are counted in the log where this is empty, too.
        name: of the corpus, which every chunk has as its source; by default the name of the folder.
    """

    def __init__(
        self,
        folder: str,
        chunk_chars: int = 1000,
        overlap_chars: int = 200,
        titles: bool = True,
        license: str = "",
        name: str | None = None,
    ) -> None:
        if not 0 <= overlap_chars < chunk_chars:
            raise ValueError(f"overlap_chars must lie in [0, chunk_chars), got {overlap_chars} and chunk_chars {chunk_chars}")
        self.folder = Path(folder).expanduser().resolve()
        self.chunk_chars, self.overlap_chars, self.titles = chunk_chars, overlap_chars, titles
        self.license, self.name = license, name or self.folder.name
        self.left_out: Counter[str] = Counter()
        self._sections: list[PageSection] = []
        self._documents: list[Document] | None = None

    def queries(self) -> list[Query]:
        """None: pages ask nothing."""
        return []

    def documents(self) -> list[Document]:
        """The chunks, in the order of the files' names, then of the page.

        Raises:
            ValueError: lists every page that cannot be read, and every bad line of ``pages.jsonl``; or there is no evidence.
        """
        if self._documents is None:
            self._sections, self.left_out = [], Counter()
            found = parse_rows(self._rows(), self._parse, type(self).__name__)
            if not found:
                told = ", ".join(f"{count} {why}" for why, count in sorted(self.left_out.items())) or "no sections"
                raise ValueError(f"{self.folder}: no page has a section that says anything ({told})")
            self._tell()
            self._documents = found
        return list(self._documents)

    def sections(self) -> list[PageSection]:
        """The sections that the documents are made of, in their order."""
        self.documents()
        return list(self._sections)

    def documents_of(self, sections: Sequence[PageSection]) -> list[Document]:
        """The chunks of sections; their ids depend on their sections alone."""
        return [document for one in sections for document in self._chunks(one)]

    def roots(self) -> list[Path]:
        """None: there are no images."""
        return []

    def _rows(self) -> Iterator[Row]:
        """A row for each page, with what the listing says of it; and the lines of the listing that are wrong."""
        if not self.folder.is_dir():
            raise ValueError(f"{self.folder}: no such folder")
        files = sorted(path for path in self.folder.rglob("*") if path.is_file() and path.name != LISTING)
        listed: dict[Path, Row] = {}
        listing = self.folder / LISTING
        for row in read_rows(listing) if listing.is_file() else ():
            yield from self._listed(row, listed)
        pages = [path for path in files if path.suffix.lower() in READERS]
        for path in pages:
            known = listed.get(path)
            yield Row(path, 1, {} if known is None else known.values)
        if not pages:
            raise ValueError(f"{self.folder}: there are no pages in it ({', '.join(READERS)})")
        other = Counter(path.suffix.lower() for path in files if path.suffix.lower() in TEXTS_OF_OTHER_KINDS)
        if other:
            told = ", ".join(f"{kind} {count}" for kind, count in sorted(other.items()))
            log.warning("%s: files that are not read, for they are no pages: %s; save them as text", self.folder, told)

    def _listed(self, row: Row, listed: dict[Path, Row]) -> Iterator[Row]:
        """Keeps what a line of the listing says; gives the line back where it is wrong."""
        try:
            if row.problem:
                raise ValueError(row.problem)
            if misspelt := misspelt_key(row, KEYS):
                raise ValueError(misspelt)
            path = guard_path(self.folder / row.text("file"), [self.folder])
            if not path.is_file() or path.suffix.lower() not in READERS:
                raise ValueError(f"file {row.text('file')!r} is no page of this folder ({', '.join(READERS)})")
            if path in listed:
                raise ValueError(f"file {row.text('file')!r} was already listed at {listed[path].where}")
            listed[path] = row
        except ValueError as error:
            yield replace(row, problem=str(error))

    def _parse(self, row: Row) -> list[Document]:
        path = guard_path(row.path, [self.folder])
        page, name = read_page(path), row.path.relative_to(self.folder).as_posix()
        url, fetched = row.text_or_none("url") or page.url, row.text_or_none("fetched")
        origin = (url or name) + (f" (fetched {fetched})" if fetched else "")
        title, licence = row.text_or_none("title") or page.title, row.text_or_none("license") or page.license or self.license
        mine = [PageSection(name, title, origin, licence, section) for section in page.sections]
        self.left_out.update(fault for one in mine if (fault := one.section.fault()))
        if not mine:
            self.left_out["empty"] += 1
        said = [one for one in mine if one.section.fault() is None]
        self._sections += said
        return self.documents_of(said)

    def _chunks(self, one: PageSection) -> list[Document]:
        parts = chunks(one.section.text, self.chunk_chars, self.overlap_chars)
        name = f"{self.name}-{one.page}#{one.section.number}"
        names = [name] if len(parts) == 1 else [f"{name}/{number}" for number in range(1, len(parts) + 1)]
        lead, origin = one.lead() if self.titles else "", one.origin
        origin += f"; {one.section.note}" if one.section.note else ""
        return [
            Document(called, lead + part, source=self.name, license=one.license, origin=origin)
            for called, part in zip(names, parts, strict=True)
        ]

    def _tell(self) -> None:
        if self.left_out:
            told = ", ".join(f"{why} {count}" for why, count in sorted(self.left_out.items()))
            log.warning("%s: sections that say nothing are left out: %s", self.folder, told)
        pages = {one.page: one.license for one in self._sections}
        if unknown := [page for page, licence in pages.items() if not licence]:
            log.warning(
                "%s: %d of %d pages name no licence, the first %s; say it in %s or by `license`, or every answer that cites "
                "them says that it is not known", self.folder, len(unknown), len(pages), unknown[0], LISTING,
            )  # fmt: skip
