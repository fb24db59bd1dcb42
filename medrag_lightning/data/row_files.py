"""Files of rows: JSONL, JSON, CSV, TSV and parquet, plain or ``.gz``, each row with its line number.

UTF-8 with or without a byte order mark, any line ends. Nothing is guessed and nothing is dropped: what cannot be read
becomes a `Row` with a `problem`. Pickles are refused, because opening one runs code.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from medrag_lightning.artifacts import TOO_DEEP, file_fault
from medrag_lightning.data.rows import Row

PICKLES = (".pkl", ".pickle", ".p", ".pt", ".pth")
KINDS = ".jsonl, .ndjson, .json, .csv, .tsv, .txt (tab separated) or .parquet, all but parquet also as .gz"
MAX_LINE_BYTES = 16 << 20
MAX_JSON_BYTES = 1 << 30
"""A longer line of JSON, or a longer JSON list, is refused before it is parsed, packed files as they are unpacked."""
_SPACE = re.compile(r"[ \t\r\n]*")


def read_rows(path: str | Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of `path`, by its suffix.

    Args:
        path: the file.
        columns: names for the columns of a CSV or TSV file without a header line.

    Raises:
        ValueError: the file is missing, is of an unknown kind, or is a pickle.
    """
    path = Path(path).expanduser()
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path}: a pickle runs code when it is opened, so it is refused; export it once, where you trust it, to JSON "
            "(a list of objects) and name that file"
        )
    if fault := file_fault(path):
        raise ValueError(f"{path}: {fault}" if path.exists() else f"{path}: no such file")
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if columns is not None and kind not in (".csv", ".tsv", ".txt"):
        raise ValueError(f"{path}: columns {list(columns)} are given, but only CSV and TSV files can lack a header line")
    if kind in (".jsonl", ".ndjson"):
        return _jsonl(path)
    if kind == ".json":
        return _json(path)
    if kind in (".csv", ".tsv", ".txt"):
        return _csv(path, "," if kind == ".csv" else "\t", columns)
    if kind == ".parquet":
        return _parquet(path)
    raise ValueError(f"{path}: unknown kind of file {path.suffix!r}; expected {KINDS}")


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(k for k in keys if keys.count(k) > 1)!r} occurs more than once in one object")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=lambda _: None)  # NaN counts as missing


def _row(path: Path, line: int, value: Any, group: str = "") -> Row:
    if isinstance(value, dict):
        return Row(path, line, value, group)
    return Row(path, line, problem=f"expected a JSON object, got a {type(value).__name__}")


def _jsonl(path: Path) -> Iterator[Row]:
    with _open(path) as stream:
        for line, raw in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b""), start=1):
            if len(raw) > MAX_LINE_BYTES:
                yield Row(path, line, problem=f"the line has more than {MAX_LINE_BYTES >> 20} MiB; nothing after it is read")
                return
            try:
                text = raw.decode("utf-8-sig" if line == 1 else "utf-8").strip()
                if text:
                    yield _row(path, line, _DECODER.decode(text))
            except UnicodeDecodeError as error:
                yield Row(path, line, problem=f"not UTF-8 (byte {raw[error.start]:#04x}); save the file as UTF-8")
            except json.JSONDecodeError as error:
                yield Row(path, line, problem=f"not valid JSON: {error.msg} at column {error.colno}")
            except ValueError as error:
                yield Row(path, line, problem=str(error))
            except RecursionError:
                yield Row(path, line, problem=TOO_DEEP)


def _json(path: Path) -> Iterator[Row]:
    with _open(path) as stream:
        data = stream.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        yield Row(path, 1, problem=f"more than {MAX_JSON_BYTES >> 20} MiB of JSON in one list; save it as JSON lines (.jsonl)")
        return
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        yield Row(path, line, problem=f"not UTF-8 (byte {data[error.start]:#04x}); save the file as UTF-8")
        return
    scan = _Scan(text)
    try:
        if scan.peek() == "[":
            for line, value in scan.items():
                yield _row(path, line, value)
        elif scan.peek() == "{":
            yield from _json_object(path, scan)
        else:
            raise ValueError("expected a list of objects, or an object of such lists")
        if scan.peek():
            raise ValueError("there is more text after the end of the list")
    except json.JSONDecodeError as error:
        yield Row(path, error.lineno, problem=f"not valid JSON: {error.msg} at column {error.colno}")
    except ValueError as error:
        yield Row(path, scan.line(), problem=str(error))
    except RecursionError:
        yield Row(path, scan.line(), problem=TOO_DEEP)


def _json_object(path: Path, scan: _Scan) -> Iterator[Row]:
    for group in scan.groups():
        if scan.peek() != "[":
            raise ValueError(f"key {group!r} of the outer object does not hold a list")
        for line, value in scan.items():
            yield _row(path, line, value, group)


class _Scan:
    """Walks the outer list (or object of lists) of a JSON text value by value, and knows the line it is on."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self._counted, self._line = 0, 1

    def line(self) -> int:
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def peek(self) -> str:
        match = _SPACE.match(self.text, self.at)
        assert match is not None
        self.at = match.end()
        return self.text[self.at : self.at + 1]

    def take(self, expected: str) -> str:
        found = self.peek()
        if not found or found not in expected:
            raise json.JSONDecodeError(f"expected {' or '.join(expected)}", self.text, self.at)
        self.at += 1
        return found

    def value(self) -> Any:
        self.peek()
        value, self.at = _DECODER.raw_decode(self.text, self.at)
        return value

    def items(self) -> Iterator[tuple[int, Any]]:
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            self.peek()
            line = self.line()
            yield line, self.value()
            if self.take(",]") == "]":
                return

    def groups(self) -> Iterator[str]:
        self.take("{")
        while True:
            if self.peek() != '"':
                self.take('"')  # raises, and says where
            name = str(self.value())
            self.take(":")
            yield name
            if self.take(",}") == "}":
                return


def _csv(path: Path, delimiter: str, columns: Sequence[str] | None) -> Iterator[Row]:
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE  # quotes in TSV captions are text
    line = 1
    with _open(path) as stream:
        reader = csv.reader(
            io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""), delimiter=delimiter, quoting=quoting, strict=True
        )
        try:
            names = list(columns) if columns is not None else [name.strip() for name in next(reader, [])]
            if len(set(names)) != len(names):
                raise ValueError(f"column names repeat in the header: {names}")
            line = reader.line_num + 1
            for cells in reader:
                if len(cells) == len(names):
                    yield Row(path, line, dict(zip(names, cells, strict=True)))
                elif cells:
                    listed = ", ".join(names)
                    yield Row(path, line, problem=f"{len(cells)} cells, but there are {len(names)} columns ({listed})")
                line = reader.line_num + 1
        except UnicodeDecodeError as error:
            yield Row(path, line, problem=f"not UTF-8 near this line ({error.reason}); save the file as UTF-8")
        except (csv.Error, ValueError) as error:
            yield Row(path, line, problem=f"not a valid table: {error}")


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet

    line = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    line += 1
                    yield Row(path, line, values)
    except (pyarrow.ArrowException, OSError) as error:
        yield Row(path, line + 1, problem=f"not a readable parquet file from here on: {str(error).splitlines()[0]}")
