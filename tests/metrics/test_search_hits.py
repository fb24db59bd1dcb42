"""Gold hit@k over corpora, by hand."""

import pytest

from medrag_lightning.metrics.search_hits import hit_at

FOUND = {"wiki": ["a", "b", "gold"], "book": [], "graph": ["c"]}


@pytest.mark.parametrize(
    ("right", "k", "expected"),
    [({"gold"}, 2, False), ({"gold"}, 3, True), ({"c", "report"}, 1, True), ({"report"}, 3, False), ((), 3, False)],
)
def test_a_right_document_counts_in_any_corpus_and_only_among_the_first(right, k, expected):
    assert hit_at(FOUND, right, k) is expected


def test_nothing_asked_finds_nothing():
    assert not hit_at({}, {"gold"}, 2)
