"""One page of a folder, by its kind."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from pathlib import Path

from medrag_lightning.artifacts import file_fault
from medrag_lightning.data.pages.html_page import html_page
from medrag_lightning.data.pages.markdown_page import markdown_page, plain_page
from medrag_lightning.data.pages.section import Page

READERS: dict[str, Callable[[str], Page]] = {
    ".html": html_page,
    ".htm": html_page,
    ".xhtml": html_page,
    ".md": markdown_page,
    ".markdown": markdown_page,
    ".txt": plain_page,
}
MAX_PAGE_BYTES = 16 << 20
_CHARSET = re.compile(rb"""charset\s*=\s*["']?([A-Za-z0-9_-]+)""")
_KNOWN = ("utf-8", "iso8859-1", "cp1252", "ascii")


def read_page(path: Path) -> Page:
    """The page in a file.

    Raises:
        ValueError: it is no plain file or of no known kind, has more than 16 MiB, is not in the encoding that it declares
            (UTF-8 where it declares none), or its markup cannot be told apart from its text. Names no file.
    """
    if fault := file_fault(path):
        raise ValueError(fault)
    if (size := path.stat().st_size) > MAX_PAGE_BYTES:
        raise ValueError(f"{size >> 20} MiB are too much for one page, which may have {MAX_PAGE_BYTES >> 20}; cut it")
    kind = path.suffix.lower()
    return READERS[kind](_decoded(path.read_bytes(), declares=READERS[kind] is html_page))


def _decoded(data: bytes, declares: bool) -> str:
    found = _CHARSET.search(data[:2048]) if declares and not data.startswith(codecs.BOM_UTF8) else None
    name = "utf-8" if found is None else found[1].decode()
    try:
        known = codecs.lookup(name).name
    except LookupError:
        known = ""
    if known not in _KNOWN:
        raise ValueError(f"it declares the encoding {name!r}; save it as UTF-8")
    try:
        return data.decode("utf-8-sig" if known == "utf-8" else known)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"not {name} (byte {data[error.start]:#04x} in line {line}); save it as UTF-8") from error
