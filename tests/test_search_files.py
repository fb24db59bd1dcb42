"""Tables of searches on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from medrag_lightning.records import Split
from medrag_lightning.search_files import ROWS_FILE, SearchRow, read_searches, write_searches

ROWS = [
    SearchRow("q1", Split.TRAIN, (("book", "words; more"), ("graph", "term , relation")), faults=("<wiki> is missing",)),
    SearchRow("q2", Split.TRAIN, ()),
    SearchRow("q3", Split.VAL, None, faults=("<book> is missing",)),
]


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_searches(tmp_path, ROWS, {"generator": "a"})
    table = read_searches(tmp_path)
    assert list(table.rows) == ROWS
    assert table.identity == {"generator": "a"}
    assert table.by_query()["q3"].searches is None
    assert table.by_query()["q2"].searches == ()


def test_a_table_to_learn_from_is_not_searched_with(tmp_path: Path) -> None:
    write_searches(tmp_path, [*ROWS, SearchRow("q1", Split.TRAIN, (), sample=1)], {})
    with pytest.raises(ValueError, match="to learn from"):
        read_searches(tmp_path).by_query()


def test_rows_are_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 rows repeat"):
        write_searches(tmp_path, [*ROWS, ROWS[0]], {})
    assert not list(tmp_path.iterdir())


def test_a_table_of_another_generator_stays(tmp_path: Path) -> None:
    write_searches(tmp_path, ROWS, {"generator": "a", "corpora": ["book"]})
    with pytest.raises(ValueError, match="another generator"):
        write_searches(tmp_path, ROWS[:1], {"generator": "b", "corpora": ["book"]})
    assert len(read_searches(tmp_path).rows) == 3


def test_an_unfinished_or_damaged_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished searches"):
        read_searches(tmp_path)
    write_searches(tmp_path, ROWS, {})
    path = tmp_path / ROWS_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="damaged"):
        read_searches(tmp_path)
