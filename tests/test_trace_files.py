"""Traces on disk: what is written is read, what failed holds no words, what does not belong together is refused."""

from dataclasses import replace

import pytest

from medrag_lightning.records import Kept, Split, Trace
from medrag_lightning.trace_files import MANIFEST, ROWS_FILE, TraceRow, read_traces, traces_are_there, write_traces

TRACE = Trace((Kept(2, "a cyst is round ... it is"), Kept(1)), "mass", "1. Evidence 2 says cyst.\n2. So not.", "cyst")
ROW = TraceRow("q0", Split.TRAIN, ("d1", "d2"), (True, False), TRACE, faults=("the text kept of evidence 1 is not its own",))
FAILED = TraceRow("q1", Split.VAL, ("d1",), (False,), None, reason="a call failed in initial")
BARE = TraceRow("q2", Split.TRAIN, (), (), Trace((), "cyst", "nothing speaks against it", "cyst"))
IDENTITY = {"teacher": "t", "seed": 0}


def test_what_was_written_is_read(tmp_path):
    write_traces(tmp_path, [ROW, FAILED, BARE], IDENTITY)
    table = read_traces(tmp_path)
    assert table.rows == (ROW, FAILED, BARE)
    assert table.identity == IDENTITY
    assert table.by_query()["q1"].trace is None
    assert (table.manifest["rows"], table.manifest["traces"], table.manifest["gold_aware"]) == (3, 2, False)


def test_the_same_rows_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_traces(tmp_path / name, [ROW, FAILED], IDENTITY)
    assert (tmp_path / "a" / ROWS_FILE).read_bytes() == (tmp_path / "b" / ROWS_FILE).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trace": None}, "either a trace or the reason"),
        ({"reason": "something failed"}, "either a trace or the reason"),
        ({"image_shown": (True,)}, "2 documents, but 1"),
        ({"trace": replace(TRACE, kept=(Kept(3),))}, "keeps evidence 3 of 2"),
        ({"trace": replace(TRACE, final="<final>")}, "step final cannot be written"),
        ({"trace": replace(TRACE, initial="")}, "step initial cannot be written"),
    ],
)
def test_a_row_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(ROW, **change)


def test_what_does_not_belong_together_is_refused(tmp_path):
    with pytest.raises(ValueError, match="repeat a question"):
        write_traces(tmp_path, [ROW, ROW], IDENTITY)
    with pytest.raises(ValueError, match="some rows are gold-aware"):
        write_traces(tmp_path, [ROW, replace(FAILED, gold_aware=True)], IDENTITY)
    assert not traces_are_there(tmp_path)
    write_traces(tmp_path, [ROW], IDENTITY)
    with pytest.raises(ValueError, match="traces of another seed"):
        write_traces(tmp_path, [ROW], {**IDENTITY, "seed": 1})
    assert read_traces(tmp_path).identity == IDENTITY


def test_a_table_that_is_not_whole_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no finished traces"):
        read_traces(tmp_path)
    write_traces(tmp_path, [ROW], IDENTITY)
    path = tmp_path / ROWS_FILE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        read_traces(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="damaged"):
        read_traces(tmp_path)
    (tmp_path / MANIFEST).unlink()
    write_traces(tmp_path, [ROW], IDENTITY)
    assert read_traces(tmp_path).rows == (ROW,)
