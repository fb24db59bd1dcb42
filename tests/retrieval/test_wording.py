"""What each corpus is asked: the question, or a query generator's words; a corpus that is left out is not searched."""

from dataclasses import replace

import pytest

from medrag_lightning.records import Query
from medrag_lightning.retrieval.candidates import query_fingerprint
from medrag_lightning.retrieval.source import LiveSearch
from medrag_lightning.retrieval.wording import is_left_out, wording

PLAIN = Query("q", "edema?")
SAID = replace(PLAIN, searches=(("wiki", "oedema of the lung"), ("book", "  ")))


@pytest.mark.parametrize(
    ("query", "corpus", "words", "left_out"),
    [
        (PLAIN, "", "edema?", False),
        (PLAIN, "wiki", "edema?", False),
        (SAID, "", "edema?", False),
        (SAID, "wiki", "oedema of the lung", False),
        (SAID, "book", None, True),
        (SAID, "graph", None, True),
        (replace(PLAIN, searches=()), "wiki", None, True),
        (Query("q", " "), "wiki", None, False),
    ],
)
def test_the_words_for_a_corpus(query, corpus, words, left_out):
    assert wording(query, corpus) == words
    assert is_left_out(query, corpus) is left_out


@pytest.mark.parametrize("searches", [(("wiki", "a"), ("wiki", "b")), (("", "a"),)])
def test_a_corpus_has_one_name_and_one_wording(searches):
    with pytest.raises(ValueError, match="each corpus once"):
        replace(PLAIN, searches=searches)


def test_what_a_search_sees_of_a_query_is_what_it_was_where_nobody_said():
    assert query_fingerprint(PLAIN) == "9ae716271e8910c9752c3de5a1a47f41aeb897338bdefd894d2c84cbbe701c1e"
    assert query_fingerprint(SAID) != query_fingerprint(PLAIN)
    assert query_fingerprint(replace(SAID, searches=SAID.searches[::-1])) == query_fingerprint(SAID)


def test_a_live_search_asks_with_the_words_for_its_corpus(world, encoder, tmp_path):
    source = LiveSearch(encoder, {"text_to_text": 2}, corpus="wiki")
    source.prepare(world.documents, world.pictures, tmp_path)
    source.load(world.documents, world.pictures, tmp_path)
    asked = Query("other", "report 9: fracture on the left")
    (plain,) = source.retrieve([replace(asked, id="q")])
    said = replace(asked, question="unrelated", searches=(("wiki", asked.question),))
    (by_words, nothing) = source.retrieve([said, replace(said, searches=(("book", "x"),))])
    assert plain.candidates[0].id == "d9"
    assert by_words.candidates == plain.candidates
    assert nothing.candidates == ()


def test_a_left_out_corpus_is_not_searched_by_image_either(world, encoder, tmp_path):
    source = LiveSearch(encoder, {"image_to_image": 1, "text_to_text": 1}, corpus="wiki")
    source.prepare(world.documents, world.pictures, tmp_path)
    source.load(world.documents, world.pictures, tmp_path)
    query = world.queries[0]
    found = source.retrieve([query, replace(query, searches=())])
    assert [len(one.candidates) for one in found] == [2, 0]
    unnamed = LiveSearch(encoder, {"image_to_image": 1, "text_to_text": 1})
    unnamed.load(world.documents, world.pictures, tmp_path)
    assert unnamed.retrieve([replace(query, searches=())])[0].candidates == found[0].candidates
    assert unnamed.fingerprint() != source.fingerprint()
