"""Bytes of row files that tend to become wrong letters: other encodings, byte order marks, line ends of Windows."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from medrag_lightning.data.audit.findings import Finding

TEXT = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
BOM = b"\xef\xbb\xbf"
MAX_LINE_BYTES = 64 << 20  # a longer "line" is read in parts: it says where, and never fills the memory


def file_findings(files: Sequence[Path]) -> list[Finding]:
    """Findings about the bytes of each text file among `files`: every line that is not UTF-8, and notes about the rest."""
    return [finding for path in dict.fromkeys(files) if is_text(path) and path.is_file() for finding in _of_file(path)]


def is_text(path: Path) -> bool:
    """Whether a row file is text, by its suffix (``.gz`` aside)."""
    return (Path(path.stem).suffix if path.suffix == ".gz" else path.suffix).lower() in TEXT


def _of_file(path: Path) -> list[Finding]:
    findings: list[Finding] = []
    windows = plain = number = 0
    try:
        for number, raw in enumerate(_lines(path), start=1):
            if number == 1 and (found := BOMS.get(raw[:2])):
                remedy = f"save it as UTF-8: iconv -f {found} -t UTF-8 FILE"
                return [Finding("not_utf8", "error", f"{path}:1", f"the file is {found}, not UTF-8", remedy)]
            windows += raw.endswith(b"\r\n")
            plain += raw.endswith(b"\n") and not raw.endswith(b"\r\n")
            findings += _of_line(f"{path}:{number}", number, raw)
    except (OSError, EOFError, zlib.error):
        what = "the file cannot be read to its end" if number else "the file cannot be read"
        return [Finding("table_unreadable", "error", f"{path}:{number + 1}", what, "download or export it again")]
    if windows:
        mixed = f"{windows} of {windows + plain} lines end" if plain else "all lines end"
        what = f"{mixed} with CR LF, as on Windows; they are read as they should be"
        findings.append(Finding("line_ends", "note", f"{path}:1", what, "nothing; to make them plain: sed -i 's/\\r$//' FILE"))
    return findings


def _of_line(where: str, number: int, raw: bytes) -> Iterator[Finding]:
    if number == 1 and raw.startswith(BOM):
        what = "the file begins with a byte order mark, which is left out"
        yield Finding("byte_order_mark", "note", where, what, "nothing; to remove it: sed -i '1s/^\\xEF\\xBB\\xBF//' FILE")
    elif BOM in raw[1:]:
        what = "a byte order mark stands inside the text (were files joined?)"
        yield Finding("byte_order_mark", "warning", where, what, "remove it: a model would read it as a letter")
    if b"\0" in raw:
        yield Finding("control_characters", "error", where, "the line holds NUL bytes", "export the file again")
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        guess = _guess(raw)
        what = f"byte {raw[error.start]:#04x} in column {error.start + 1} is not UTF-8" + (
            f" (looks like {guess})" if guess else ""
        )
        remedy = f"save the file as UTF-8: iconv -f {guess or 'WINDOWS-1252'} -t UTF-8 FILE"
        yield Finding("not_utf8", "error", where, what, remedy)


def _guess(raw: bytes) -> str:
    """The encoding that a line of Western text was probably saved in."""
    try:
        raw.decode("cp1252")
    except UnicodeDecodeError:
        return "ISO-8859-1"
    return "WINDOWS-1252"


def _lines(path: Path) -> Iterator[bytes]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
        while raw := stream.readline(MAX_LINE_BYTES):
            yield raw
