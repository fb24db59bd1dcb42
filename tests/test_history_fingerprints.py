"""What is stored under a query's fingerprint: unchanged for a query without history, another for each history and rewriting."""

from __future__ import annotations

from dataclasses import replace

from medrag_lightning import score_files
from medrag_lightning.records import AnswerType, ImageRef, Query
from medrag_lightning.retrieval import candidates
from medrag_lightning.retrieval.wording import wording

QUERY = Query("q1", "is it so?", ImageRef("a/b.png"), "yes", ("yes", "no"), AnswerType.CLOSED, patient_id="p", modality="CT")
SCORED = "e42b75bf87a1539127a17ada64fe4fd3"
FOUND = "3897baaf5408cddf4ed65ebae157492c3ad8f0672ea67470124e4d5cc377c6b1"


def test_queries_without_history_have_the_fingerprints_that_they_had() -> None:
    assert score_files.query_fingerprint(QUERY) == SCORED
    assert candidates.query_fingerprint(QUERY) == FOUND


def test_a_score_depends_on_the_history_and_a_search_on_the_rewriting() -> None:
    later = replace(QUERY, history=(("a?", "b"),))
    other = replace(QUERY, history=(("a?", "c"),))
    assert len({score_files.query_fingerprint(query) for query in (QUERY, later, other)}) == 3
    rewritten = replace(later, rewritten="is a cyst so?")
    assert score_files.query_fingerprint(rewritten) == score_files.query_fingerprint(later)
    assert candidates.query_fingerprint(rewritten) != candidates.query_fingerprint(later) == FOUND


def test_the_rewritten_question_is_searched_and_words_for_a_corpus_go_before_it() -> None:
    rewritten = replace(QUERY, rewritten="is a cyst so?")
    assert wording(rewritten, "") == wording(rewritten, "wiki") == "is a cyst so?"
    told = replace(rewritten, searches=(("wiki", "cyst"), ("book", " ")))
    assert [wording(told, name) for name in ("wiki", "book", "")] == ["cyst", None, "is a cyst so?"]
