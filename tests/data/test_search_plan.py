"""Searches put on questions before anything is retrieved, and what a generator learns from."""

from __future__ import annotations

import logging

import pytest

from medrag_lightning.data.cached_rewriter import CachedRewriter
from medrag_lightning.data.search_plan import SearchPlan, learned_from, searched_with, target_words
from medrag_lightning.records import Query, Split
from medrag_lightning.search_files import SearchRow, check_searches, partly_written, write_searches


def queries(count=3):
    return {split: [Query(f"{split}{n}", "why?", split=split) for n in range(count)] for split in Split}


def rows(count=3):
    return [
        SearchRow(query.id, split, (("wiki", f"{query.id} sign"),)) for split, mine in queries(count).items() for query in mine
    ]


def test_every_question_gets_its_searches_and_an_unread_text_leaves_the_question(tmp_path, caplog):
    told = rows()
    told[0] = SearchRow(told[0].query_id, told[0].split, None, faults=("<wiki> is missing",))
    told[1] = SearchRow(told[1].query_id, told[1].split, ())
    write_searches(tmp_path, told, {})
    with caplog.at_level(logging.INFO):
        found = searched_with(queries(), SearchPlan(table=str(tmp_path)))
    assert [query.searches for query in found[Split.TRAIN]] == [None, (), (("wiki", "train2 sign"),)]
    assert all(query.searches for split in (Split.VAL, Split.TEST) for query in found[split])
    assert "searches of 9 questions; questions that ask a corpus: wiki 7; 1 could not be read" in caplog.text
    assert searched_with(queries(), None) == queries() == searched_with(queries(), SearchPlan())


def test_a_question_without_a_row_is_an_error_that_counts(tmp_path):
    write_searches(tmp_path, rows(2), {})
    with pytest.raises(ValueError, match=r"for 3 of 9 questions \(1 train, 1 val, 1 test\), the first 'train2': write them"):
        searched_with(queries(), SearchPlan(table=str(tmp_path)))
    assert searched_with(queries(1), SearchPlan(table=str(tmp_path)))[Split.TEST][0].searches
    with pytest.raises(ValueError, match="there are no finished searches in"):
        searched_with(queries(), SearchPlan(table=str(tmp_path / "none")))


def test_a_table_to_learn_from_is_not_searched_with(tmp_path):
    write_searches(tmp_path, [*rows(), SearchRow("train0", Split.TRAIN, (("wiki", "other"),), 1)], {})
    with pytest.raises(ValueError, match="several searches of one question"):
        searched_with(queries(), SearchPlan(table=str(tmp_path)))
    learned = learned_from(queries(), SearchPlan(targets=str(tmp_path)), Split.TRAIN)
    assert [query.id for query in learned] == ["train0", "train1", "train2", "train0"]
    assert learned[-1].searches == (("wiki", "other"),)
    assert "other" in target_words(SearchPlan(targets=str(tmp_path)))
    assert target_words(SearchPlan(targets=str(tmp_path / "gone"))) == [] == target_words(None)


def test_shards_count_as_written_and_another_identity_is_refused(tmp_path):
    first, *others = rows()
    write_searches(tmp_path / "shards" / "r00000-000000", [first], {"generator": "a", "template": "t"})
    write_searches(tmp_path, others, {"generator": "a", "template": "t"})
    (tmp_path / "shards" / "r00001-000000").mkdir()
    assert {row.query_id for row in partly_written(tmp_path)} == {row.query_id for row in rows()}
    check_searches(tmp_path, {"generator": "a", "template": "t"})
    with pytest.raises(ValueError, match=r"searches of another generator: .*searches.written.*Nothing changed"):
        check_searches(tmp_path, {"generator": "b", "template": "t"})
    assert partly_written(tmp_path / "none") == []
    with pytest.raises(ValueError, match="decoded must be at least 1"):
        SearchPlan(decoded=0)


class Capitals:
    """Writes the question in capitals, as often as it is asked; none of one that says so."""

    asked = 0

    def rewrite(self, tasks):
        type(self).asked += len(tasks)
        return [None if "never" in task.question else task.question.upper() for task in tasks]

    def fingerprint(self):
        return "c" * 64


def talking():
    history = (("is it?", "yes"),)
    return {
        split: [Query(f"{split}0", "why?", split=split), Query(f"{split}1", f"and {split}?", split=split, history=history)]
        for split in Split
    } | {Split.VAL: [Query("val9", "never?", split=Split.VAL, history=history)]}


def test_questions_with_a_history_are_rewritten_once_and_other_processes_take_what_was_kept(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Capitals, "asked", 0)
    plan = SearchPlan(rewriter=Capitals())
    with caplog.at_level(logging.INFO):
        found = searched_with(talking(), plan)
    assert [query.rewritten for query in found[Split.TRAIN]] == [None, "AND TRAIN?"]
    assert [query.question for query in found[Split.TRAIN]] == ["why?", "and train?"]
    assert found[Split.VAL] == talking()[Split.VAL]
    assert Capitals.asked == 3
    assert "3 questions have a history: 2 rewritten now" in caplog.text
    assert searched_with(talking(), SearchPlan(rewriter=Capitals()), asks=False) == found
    assert Capitals.asked == 3
    assert searched_with(queries(), plan) == queries()
    assert searched_with(talking(), SearchPlan(rewriter=Capitals())) == found
    assert Capitals.asked == 4, "only the one that failed is asked again"


def test_searches_for_corpora_and_rewritten_questions_stand_side_by_side(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = {split: [query for query in mine if query.id[-1] != "9"] for split, mine in talking().items()}
    write_searches(tmp_path, [SearchRow(q.id, q.split, (("wiki", "sign"),)) for mine in asked.values() for q in mine], {})
    found = searched_with(asked, SearchPlan(table=str(tmp_path), rewriter=CachedRewriter(Capitals(), None)))
    assert found[Split.TEST][1].searches == (("wiki", "sign"),)
    assert found[Split.TEST][1].rewritten == "AND TEST?"
