"""The score table's files and its reader, on rows made by hand."""

import numpy as np
import pytest

from medrag_lightning import score_files
from medrag_lightning.artifacts import write_json
from medrag_lightning.data.scores import ScoreTable
from medrag_lightning.records import Condition, Document, ImageRef, ImageShown, Query, Score
from medrag_lightning.score_files import merge, to_table, write_shard

IDENTITY = {"schema": 1, "reader": "r1", "template": "t1", "corpus": "c1"}


def row(query="q1", evidence=(), shift=0.0, answers=("no", "yes"), **settings):
    logps = tuple(-1.0 - shift - n for n in range(len(answers)))
    return Score(query, Condition(tuple(evidence), **settings), answers, logps, tuple(2 + n for n in range(len(answers))), 1)


ROWS = [
    *(row("q1", e, shift=n) for n, e in enumerate([(), ("d1",), ("d2",), ("d2", "d1"), ("d9",)])),
    *(row("q2", e, shift=n, answers=("a", "b", "c")) for n, e in enumerate([("d2",), ("d1",)])),
    row("q1", (), 7, image=ImageShown.OTHER, image_of="q2"),
    row("q1", ("d1",), 8, image=ImageShown.CORRUPTED, corruption="noise:0.5"),
    Score("q3", Condition(), ("left lung",), (-3.25,), (4,), 0, "lung", False),
]
SHA = {"q1": "1", "q2": "2", "q3": "3"}


def folder_with(path, *shards, identity=IDENTITY):
    write_json(path / score_files.IDENTITY, identity)
    for number, rows in enumerate(shards):
        write_shard(path, number % 2, number, to_table(rows, SHA))
    return path


@pytest.fixture
def table(tmp_path):
    merge(folder_with(tmp_path / "t", ROWS[:4], ROWS[4:]))
    return ScoreTable.open(tmp_path / "t")


def test_every_row_comes_back_as_it_was(table):
    for score in ROWS:
        assert table.score(score.query_id, score.condition) == score
    assert len(table) == len(ROWS)
    assert table.query_ids == ["q1", "q2", "q3"]
    assert sorted(map(str, table.of_query("q1"))) == sorted(str(s) for s in ROWS if s.query_id == "q1")
    assert table.of_query("nobody") == []


def test_bulk_reads_give_one_row_a_document_in_the_order_asked(table):
    logp_KC, counts_C, gold = table.one_candidate("q1", ["d9", "d1", "d2", "d1"])
    np.testing.assert_array_equal(logp_KC, np.array([[-5, -6], [-2, -3], [-3, -4], [-2, -3]], np.float32))
    assert (logp_KC.dtype, counts_C.tolist(), gold) == (np.float32, [2, 3], 1)
    assert table.one_candidate("q2", ["d1"])[0].tolist() == [[-2, -3, -4]]
    assert table.without("q1")[0].tolist() == [[-1, -2]]
    assert table.without("q3")[0].tolist() == [[-3.25]]


def test_a_missing_row_says_what_is_missing_and_how_to_compute_it(table):
    with pytest.raises(ValueError, match=r"'q1' shown d3; 2 rows are missing in all.*predict -c DATA -c stages/score"):
        table.one_candidate("q1", ["d1", "d3", "d4"])
    with pytest.raises(ValueError, match="'q2' shown d9; 1 rows"):  # scored for q1 alone
        table.one_candidate("q2", ["d9"])
    with pytest.raises(ValueError, match="'q2' shown nothing"):
        table.without("q2")
    with pytest.raises(ValueError, match="'q4' shown d1"):
        table.one_candidate("q4", ["d1"])
    with pytest.raises(ValueError, match="'q1' shown nothing and image none; 1 rows"):
        table.score("q1", Condition(image=ImageShown.NONE))
    table.require((score.query_id, score.condition) for score in ROWS)
    with pytest.raises(ValueError, match="'q2' shown nothing; 3 rows are missing in all"):
        table.require([("q1", Condition()), ("q2", Condition()), ("q5", Condition()), ("q2", Condition(("d2", "d1")))])


def test_another_reader_template_or_corpus_is_named(table):
    table.check(reader="r1", template="t1", corpus="c1")
    table.check(corpus="c1")
    with pytest.raises(ValueError, match=r"scores of another reader and corpus \(reader r1 in the table, r2 here; corpus c1"):
        table.check(reader="r2", template="t1", corpus="c2")


def test_what_is_not_finished_or_not_whole_is_refused(tmp_path, table):
    folder_with(tmp_path / "open", ROWS)
    with pytest.raises(ValueError, match="is not finished"):
        ScoreTable.open(tmp_path / "open")
    with pytest.raises(ValueError, match="does not exist"):
        ScoreTable.open(tmp_path / "nothing")
    path = table.folder / score_files.SCORES
    whole = path.read_bytes()
    for broken in (whole[:-1], whole[:400] + b"\x00" + whole[401:] if whole[400] else whole[:400] + b"\x01" + whole[401:]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="damaged"):
            ScoreTable.open(table.folder)
    write_json(table.folder / score_files.MANIFEST, table.manifest | {"schema": 99})
    with pytest.raises(ValueError, match="schema 99"):
        ScoreTable.open(table.folder)


def test_the_order_and_number_of_shards_and_repeats_change_no_byte(tmp_path):
    splits = [[ROWS], [ROWS[5:], ROWS[:5]], [ROWS[::-1], ROWS[2:4]], [[score] for score in ROWS]]
    folders = [folder_with(tmp_path / str(n), *shards) for n, shards in enumerate(splits)]
    assert [merge(folder) for folder in folders] == [len(ROWS)] * 4
    for name in (score_files.SCORES, score_files.MANIFEST):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1
    assert {path.name for path in folders[0].iterdir()} == {"identity.json", "scores.arrow", "manifest.json"}


def test_a_finished_table_takes_more_rows(tmp_path):
    folder = folder_with(tmp_path, ROWS[:4])
    merge(folder)
    write_shard(folder, 0, 0, to_table(ROWS[3:], SHA))
    merge(folder)
    assert len(ScoreTable.open(folder)) == len(ROWS)


def test_two_results_for_one_condition_are_an_error_that_loses_nothing(tmp_path):
    folder = folder_with(tmp_path, ROWS, [row("q1", ("d2",), shift=2 + 1e-5)])
    assert merge(folder) == len(ROWS)  # computed twice, with the rounding of two machines
    write_shard(folder, 1, 5, to_table([row("q1", ("d2",), shift=2.5)], SHA))
    with pytest.raises(ValueError, match=r"query 'q1' with evidence \['d2'\] has two different results"):
        merge(folder)
    assert list((folder / "shards").iterdir())
    assert len(ScoreTable.open(folder)) == len(ROWS)


def test_a_damaged_shard_is_named(tmp_path):
    folder = folder_with(tmp_path, ROWS)
    (folder / "shards" / "r00000-00007-x.arrow").write_bytes(b"half a shard")
    with pytest.raises(ValueError, match=r"r00000-00007-x.arrow: damaged .*delete this file"):
        merge(folder)


def test_rows_of_unknown_origin_are_refused(tmp_path):
    folder = folder_with(tmp_path, ROWS)
    (folder / score_files.IDENTITY).unlink()
    with pytest.raises(ValueError, match=r"no identity\.json"):
        score_files.check_identity(folder, IDENTITY)
    score_files.check_identity(tmp_path / "new", IDENTITY)


def test_an_empty_table_is_a_table(tmp_path):
    assert merge(folder_with(tmp_path)) == 0
    with pytest.raises(ValueError, match="no row for query 'q'"):
        ScoreTable.open(tmp_path).one_candidate("q", ["d"])


def test_fingerprints_follow_content_not_place():
    query = Query("q", "where?", ImageRef("/a/x.png"), "left")
    moved = Query("q", "where?", ImageRef("/b/x.png"), "left")
    assert score_files.query_fingerprint(query) == score_files.query_fingerprint(moved)
    for other in (Query("q", "when?", ImageRef("/a/x.png"), "left"), Query("q", "where?", ImageRef("/a/x.png"), "right")):
        assert score_files.query_fingerprint(other) != score_files.query_fingerprint(query)
    one, two = Document("a", "x"), Document("b", "y")
    assert score_files.documents_fingerprint([one, two]) == score_files.documents_fingerprint([two, one])
    assert score_files.documents_fingerprint([one]) != score_files.documents_fingerprint([Document("a", "z")])
    conditions = [Condition(ids) for ids in [(), ("a",), ("a", "b"), ("b", "a")]] + [Condition(image=ImageShown.NONE)]
    assert len({score_files.condition_digest(condition) for condition in conditions}) == 5
