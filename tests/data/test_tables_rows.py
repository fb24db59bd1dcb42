"""Row files: every format, every fault with its line, nothing dropped."""

from __future__ import annotations

import gzip
import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medrag_lightning.data.row_files import read_rows
from medrag_lightning.data.rows import Row, misspelt_key, parse_rows, read_split
from medrag_lightning.records import Document, Split


def as_document(row: Row) -> list[Document]:
    return [Document(id=row.text("id"), text=row.text("text"))]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


FILES = {
    "a.jsonl": b'\xef\xbb\xbf{"id": "1", "text": "caf\xc3\xa9"}\r\n\r\n{"id": 2, "text": "b"}\r\n',
    "a.json": b'\xef\xbb\xbf[\r\n {"id": "1",\r\n  "text": "caf\xc3\xa9"},\r\n {"id": 2, "text": "b"}]\r\n',
    "a.csv": b'\xef\xbb\xbfid,text\r\n1,"caf\xc3\xa9"\r\n2,b\r\n',
    "a.tsv": b"id\ttext\n1\tcaf\xc3\xa9\n2\tb\n",
}


@pytest.mark.parametrize("zipped", ["", ".gz"])
@pytest.mark.parametrize("name", FILES)
def test_text_formats_read_alike(tmp_path: Path, name: str, zipped: str) -> None:
    documents = parse_rows(read_rows(write(tmp_path / (name + zipped), FILES[name])), as_document, "Test")
    assert [(d.id, d.text) for d in documents] == [("1", "café"), ("2", "b")]


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["1", "2"], "text": ["a", None]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet:2: key 'text' is empty"):
        parse_rows(read_rows(tmp_path / "a.parquet"), as_document, "Test")


def test_lines_count_from_the_start_of_a_row(tmp_path: Path) -> None:
    assert [row.line for row in read_rows(write(tmp_path / "a.jsonl", FILES["a.jsonl"]))] == [1, 3]
    assert [row.line for row in read_rows(write(tmp_path / "a.json", FILES["a.json"]))] == [2, 4]
    quoted = write(tmp_path / "a.csv", b'id,text\n1,"two\nlines"\n2,b\n')
    assert [row.line for row in read_rows(quoted)] == [2, 4]


def test_every_bad_row_is_listed_at_once(tmp_path: Path) -> None:
    lines = [b'{"id": "1", "text": "a"}', b'{"id": "2", "txt": "a"}', b"{broken", b'{"id": "3", "text": "\xff"}', b"[1]"]
    lines += [b'{"id": "1", "text": "b"}', b'{"id": "4", "text": true}', b'{"id": "5", "text": ""}', b'{"id": "6", "id": "7"}']
    path = write(tmp_path / "a.jsonl", b"\n".join(lines))
    with pytest.raises(ValueError) as caught:
        parse_rows(read_rows(path), as_document, "Test")
    message = str(caught.value).splitlines()
    assert message[0] == "Test: 8 bad rows"
    for line, said in zip(
        message[1:],
        [
            ":2: key 'text' is missing (the row has id, txt); did you mean its key 'txt'?",
            ":3: not valid JSON",
            ":4: not UTF-8 (byte 0xff)",
            ":5: expected a JSON object, got a list",
            f":6: id '1' was already used at {path}:1",
            ":7: key 'text' holds True, a bool",
            ":8: key 'text' is empty",
            ":9: key 'id' occurs more than once in one object",
        ],
        strict=True,
    ):
        assert f"{path}{said}" in line


def test_a_long_list_of_faults_is_cut_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"id": 1}\n' * 70)
    with pytest.raises(ValueError) as caught:
        parse_rows(read_rows(path), as_document, "Test")
    assert "70 bad rows" in str(caught.value)
    assert str(caught.value).endswith("... and 20 more")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.csv", b"id,text\n1\n", r"a\.csv:2: 1 cells, but there are 2 columns"),
        ("a.csv", b"id,id\n1,2\n", r"a\.csv:1: not a valid table: column names repeat"),
        ("a.csv", b'id,text\n1,a\n2,"open', r"a\.csv:3: not a valid table"),
        ("a.csv", b"id,text\n1,\xff\n", r"a\.csv:\d+: not UTF-8"),
        ("a.json", b'[{"id": 1},\n{"id": 2,]', r"a\.json:2: not valid JSON"),
        ("a.json", b'[\n{"id": 1, "text": "a"}', r"a\.json:2: not valid JSON: expected , or \]"),
        ("a.json", b'{"train": 3}', r"a\.json:1: key 'train' of the outer object does not hold a list"),
        ("a.json", b"3", r"a\.json:1: expected a list of objects"),
        ("a.json", b"[]\n[]", r"a\.json:2: there is more text"),
        ("a.jsonl", b"\n\n", "Test: there are no rows to read"),
        ("a.xlsx", b"", r"a\.xlsx: unknown kind of file '\.xlsx'"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_rows(read_rows(write(tmp_path / name, data)), as_document, "Test")


def test_pickles_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.pkl: a pickle runs code.*export it once"):
        read_rows(write(tmp_path / "train.pkl", pickle.dumps([1])))
    with pytest.raises(ValueError, match="no such file"):
        read_rows(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="only CSV and TSV"):
        read_rows(write(tmp_path / "a.jsonl", b"{}"), columns=["id"])


def test_objects_of_lists_keep_their_key_and_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", b'{"train": [\n{"id": 1},\n{"id": 2}],\n "test": []\n,"val": [{"id": 3}]}')
    found = [(row.group, row.line, row.values["id"]) for row in read_rows(path)]
    assert found == [("train", 2, 1), ("train", 3, 2), ("val", 5, 3)]


def test_nan_counts_as_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="key 'text' is empty"):
        parse_rows(read_rows(write(tmp_path / "a.jsonl", b'{"id": 1, "text": NaN}')), as_document, "Test")


def test_misspelt_keys_are_found_and_free_ones_left_alone() -> None:
    known = ("id", "patient_id", "image")
    row = Row(Path("a"), 1, {"id": "1", "patient": "7", "sex": "F", "age": 3})
    assert "did you mean 'patient_id'" in (misspelt_key(row, known) or "")
    assert misspelt_key(Row(Path("a"), 1, {"id": "1", "sex": "F", "age": 3, "view": "PA"}), known) is None


def test_split_names() -> None:
    assert [read_split("split", name) for name in ("Training", "validate", " test ")] == [Split.TRAIN, Split.VAL, Split.TEST]
    with pytest.raises(ValueError, match="'split' is 'held-out'; expected one of"):
        read_split("split", "held-out")


def test_reading_tables_needs_no_torch() -> None:
    code = "import sys, medrag_lightning.data.tables, medrag_lightning.data.images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
