"""Reciprocal-rank fusion by hand, its ties and ranks; the re-ranked pool; the word re-ranker learns from training questions."""

import dataclasses
import math

import numpy as np
import pytest

from medrag_lightning.interfaces import CandidateSource, Reranker
from medrag_lightning.records import Candidate, Channel, Document, Query, Retrieved
from medrag_lightning.retrieval.hybrid import HybridSearch
from medrag_lightning.retrieval.knowledge_search import KnowledgeSearch
from medrag_lightning.retrieval.reranked import RerankedSearch
from medrag_lightning.retrieval.source import LiveSearch
from medrag_lightning.retrieval.word_reranker import FEATURES, WINDOW, WordReranker
from medrag_lightning.retrieval.word_reranker_fit import RerankExample, fit_word_reranker
from medrag_lightning.retrieval.words import WordSettings

pytest.importorskip("bm25s", reason="the extra `text` is not installed")
PLAIN = WordSettings("none", "none")


class Fixed:
    """Gives each query the same documents; remembers the folder that it was given."""

    def __init__(self, names, texts=None):
        self.names, self.texts, self.folders, self.asked = names, texts or {}, [], 0

    def prepare(self, documents, open_image, folder):
        self.folders.append(folder)

    load = prepare

    def retrieve(self, queries):
        self.asked += 1
        documents = [Document(name, self.texts.get(name, f"text of {name}")) for name in self.names]
        found = tuple(Candidate(d, 1.0 - n / 100, Channel.TEXT_TO_TEXT) for n, d in enumerate(documents))
        return [Retrieved(query.id, found) for query in queries]

    def fingerprint(self):
        return "/".join(self.names)


class ByTable:
    """A re-ranker that knows its numbers."""

    def __init__(self, told):
        self.told, self.pairs = told, []

    def relevance(self, pairs):
        self.pairs += pairs
        return np.array([self.told[text] for _, text in pairs], np.float32)

    def fingerprint(self):
        return str(sorted(self.told.items()))


QUERIES = [Query("q1", "what?"), Query("q2", "why?")]


def test_scores_are_sums_of_reciprocal_ranks():
    hybrid = HybridSearch({"words": Fixed("abc"), "meaning": Fixed("cda")}, top=4, weights={"meaning": 0.5})
    first, second = hybrid.retrieve(QUERIES)
    expected = {"a": 1 / 61 + 0.5 / 63, "b": 1 / 62, "c": 1 / 63 + 0.5 / 61, "d": 0.5 / 62}
    assert [c.id for c in first.candidates] == sorted(expected, key=lambda name: -expected[name])
    assert [c.score for c in first.candidates] == pytest.approx(sorted(expected.values(), reverse=True))
    assert {c.channel for c in first.candidates} == {Channel.HYBRID}
    assert second == dataclasses.replace(first, query_id="q2")
    assert isinstance(hybrid, CandidateSource)


def test_equal_scores_keep_the_order_of_the_parts():
    hybrid = HybridSearch({"one": Fixed("ab"), "two": Fixed("ba")}, top=2, k=0)
    assert [c.id for c in hybrid.retrieve(QUERIES)[0].candidates] == ["a", "b"]
    hybrid = HybridSearch({"one": Fixed("ba"), "two": Fixed("ab")}, top=2, k=0)
    assert [c.id for c in hybrid.retrieve(QUERIES)[0].candidates] == ["b", "a"]
    assert HybridSearch({"one": Fixed("aab"), "two": Fixed("x")}, top=3).ranks(QUERIES, [["a", "b"], []])[0] == [
        {"one": 1},
        {"one": 2},
    ]


def test_ranks_are_told_and_the_last_asked_are_kept(tmp_path):
    parts = {"words": Fixed("abc"), "meaning": Fixed("cda")}
    hybrid = HybridSearch(parts, top=2)
    hybrid.prepare([], None, tmp_path)
    assert [part.folders for part in parts.values()] == [[tmp_path / "words"], [tmp_path / "meaning"]]
    hybrid.retrieve(QUERIES)
    told = hybrid.ranks(QUERIES, [["c", "d", "never"], ["b"]])
    assert told == [[{"words": 3, "meaning": 1}, {"meaning": 2}, {}], [{"words": 2}]]
    assert parts["words"].asked == 1
    hybrid.ranks(QUERIES[:1], [["a"]])
    assert parts["words"].asked == 2


def test_wrong_parts_are_refused():
    both = {"a": Fixed("a"), "b": Fixed("b")}
    for parts, settings, said in (
        ({"a": Fixed("a")}, {}, "at least two parts"),
        ({"../a": Fixed("a"), "b": Fixed("b")}, {}, "letters, digits"),
        (both, {"k": -1.0}, "k >= 0"),
        (both, {"weights": {"c": 1.0}}, "no part"),
        (both, {"weights": {"a": 0.0}}, "above 0"),
    ):
        with pytest.raises(ValueError, match=said):
            HybridSearch(parts, top=1, **settings)
    told = {HybridSearch(both, 1).fingerprint(), HybridSearch(both, 2).fingerprint(), HybridSearch(both, 1, 10).fingerprint()}
    assert len(told | {HybridSearch(both, 1, weights={"a": 2.0}).fingerprint()}) == 4


def test_the_seventh_of_a_pool_comes_first(tmp_path):
    told = {f"text of {name}": 0.0 for name in "abcdefghijkl"} | {"text of g": 2.0, "text of l": 9.0}
    source = RerankedSearch(Fixed("abcdefghijkl"), ByTable(told))
    (one, _) = source.retrieve(QUERIES)
    assert [(c.id, c.score) for c in one.candidates] == [("g", 2.0), ("a", 0.0)]  # l is the twelfth: never read
    assert {c.channel for c in one.candidates} == {Channel.RERANKED}
    assert source.reranker.pairs[0] == ("what?", "text of a")
    assert len(source.reranker.pairs) == 20
    assert source.top == 2
    whole = RerankedSearch(Fixed("abcdefghijkl"), ByTable(told), candidates=None)
    assert [c.id for c in whole.retrieve(QUERIES)[0].candidates] == ["l", "g"]
    assert len({source.fingerprint(), whole.fingerprint(), RerankedSearch(Fixed("a"), ByTable(told)).fingerprint()}) == 3


def test_pools_of_different_sizes_and_none():
    class Some(Fixed):
        def retrieve(self, queries):
            found = super().retrieve(queries)
            return [dataclasses.replace(one, candidates=one.candidates[:n]) for n, one in zip((0, 2, 1), found, strict=False)]

    source = RerankedSearch(Some("ab"), ByTable({"text of a": 1.0, "text of b": 2.0}))
    found = source.retrieve([*QUERIES, Query("q3", "how?")])
    assert [[c.id for c in one.candidates] for one in found] == [[], ["b", "a"], ["a"]]
    assert source.retrieve([]) == []
    worded = RerankedSearch(Fixed("ab"), ByTable({"text of a": 1.0, "text of b": 2.0}), corpus="book")
    asked = [Query("q1", "what?", searches=(("book", "other words"),)), Query("q2", "what?", searches=())]
    assert [len(one.candidates) for one in worded.retrieve(asked)] == [2, 0]
    assert {question for question, _ in worded.reranker.pairs} == {"other words"}


def test_a_number_that_is_none_is_refused():
    source = RerankedSearch(Fixed("ab"), ByTable({"text of a": math.nan, "text of b": 2.0}))
    with pytest.raises(ValueError, match=r"ByTable gave a number that is none"):
        source.retrieve(QUERIES)
    with pytest.raises(ValueError, match=r"1 <= keep <= candidates"):
        RerankedSearch(Fixed("ab"), ByTable({}), keep=3, candidates=2)


def told_of(texts):
    flat = [1.0] * len(FEATURES)
    counts = {word: sum(word in text.split() for text in texts) for word in {w for text in texts for w in text.split()}}
    mean = sum(len(text.split()) for text in texts) / len(texts)
    settings = {"stopwords": "none", "stemmer": "none"}
    told = {"words": settings, "texts": len(texts), "mean_words": mean, "frequency": counts}
    return told | {"mean": [0.0] * len(FEATURES), "scale": flat, "weights": flat}


def test_measures_by_hand():
    texts = ["red lung", "red heart", "blue lung sign", "grey"]
    reranker = WordReranker.of(told_of(texts))
    idf = {n: math.log(1 + (4 - n + 0.5) / (n + 0.5)) for n in (0, 1, 2)}
    asked = "blue lung of"
    whole = idf[1] + idf[2] + idf[0]
    (row,) = reranker.features([(asked, "blue lung sign")])
    got = dict(zip(FEATURES, row, strict=True))
    length = 0.9 * (0.6 + 0.4 * 3 / 2.0)
    assert got["bm25"] == pytest.approx((idf[1] + idf[2]) / (1 + length) / whole)
    assert got["coverage"] == got["window"] == got["opening"] == pytest.approx((idf[1] + idf[2]) / whole)
    assert got["missed"] == pytest.approx(1.0)  # "of" is in no text, so it tells most
    assert got["pairs"] == pytest.approx((idf[1] + idf[2]) / (idf[1] + 2 * idf[2] + idf[0]))
    assert got["length"] == pytest.approx(math.log(4))
    (none,) = reranker.features([("", "")])
    assert np.isfinite(none).all()


def test_window_is_the_best_part_of_a_text():
    reranker = WordReranker.of(told_of(["a b", "c"]))
    worth = {"a": 1.0, "b": 2.0}
    assert reranker._window(["a", *["x"] * (WINDOW - 2), "b"], worth) == 3.0
    assert reranker._window(["a", *["x"] * (WINDOW - 1), "b"], worth) == 2.0
    assert reranker._window(["a", "a", "x"], worth) == 1.0
    assert reranker._window([], worth) == 0.0


def test_fitting_learns_what_makes_a_text_right(tmp_path):
    """Right texts have the question's two words side by side, wrong ones have them apart, and more often."""
    rng = np.random.default_rng(0)
    words = [f"w{n}" for n in range(40)]

    def example():
        a, b = rng.choice(words, 2, replace=False)
        rest = [list(rng.choice(words, 12)) for _ in range(4)]
        texts = [" ".join([a, *r, b, a, *r[:3], b]) for r in rest[:3]] + [" ".join([*rest[3], a, b])]
        return RerankExample(f"{a} {b}", tuple(texts), (False, False, False, True))

    examples = [example() for _ in range(80)]
    corpus = [text for one in examples for text in one.texts]
    fitted = fit_word_reranker(examples[:60], corpus, PLAIN)
    right = [np.argmax(fitted.relevance([(one.question, text) for text in one.texts])) == 3 for one in examples[60:]]
    assert np.mean(right) >= 0.9
    assert fitted.told["questions"] == 60
    flat = WordReranker.of(fitted.told | {"weights": [1.0] + [0.0] * 9})  # BM25 alone prefers those that repeat
    assert np.mean([np.argmax(flat.relevance([(one.question, t) for t in one.texts])) == 3 for one in examples[60:]]) < 0.5
    fitted.save(tmp_path / "reranker.json")
    again = WordReranker(str(tmp_path / "reranker.json"))
    pairs = [(examples[0].question, text) for text in examples[0].texts]
    np.testing.assert_array_equal(again.relevance(pairs), fitted.relevance(pairs))
    assert again.fingerprint() == fitted.fingerprint() != flat.fingerprint()
    assert isinstance(again, Reranker)


def test_weights_minimise_the_loss():
    examples = [RerankExample("a b", ("a b", "a", "c"), (True, False, False)), RerankExample("c", ("a", "c c"), (False, True))]
    fitted = fit_word_reranker(examples, ["a b", "a", "c", "c c"], PLAIN)
    features = [fitted.features([(one.question, text) for text in one.texts]) for one in examples]
    standard = [(one - fitted._mean_F) / fitted._scale_F for one in features]

    def loss(weight_F):
        told = 0.0
        for one, example in zip(standard, examples, strict=True):
            score = one @ weight_F
            told -= score[list(example.right).index(True)] - np.log(np.exp(score).sum())
        return told / 2 + 1e-3 * (weight_F**2).sum()

    best = loss(fitted._weight_F)
    rng = np.random.default_rng(0)
    assert all(loss(fitted._weight_F + 0.05 * rng.standard_normal(len(FEATURES))) >= best - 1e-7 for _ in range(50))


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no training question"):
        fit_word_reranker([RerankExample("a", ("a",), (True,))], ["a"], PLAIN)
    fitted = WordReranker.of(told_of(["a b"]))
    fitted.save(tmp_path / "one.json")
    text = (tmp_path / "one.json").read_text()
    (tmp_path / "one.json").write_text(text.replace('"texts": 1', '"texts": 2'))
    with pytest.raises(ValueError, match=r"damaged.*fit it again"):
        WordReranker(str(tmp_path / "one.json"))
    with pytest.raises(ValueError, match=r"finite means"):
        WordReranker.of(told_of(["a b"]) | {"weights": [1.0]})


def test_reranked_hybrid_under_knowledge_search(world, encoder, tmp_path):
    from medrag_lightning.retrieval.lexical import LexicalSearch

    texts = [Document(f"t{n}", f"guideline {n} on effusion", patient_id="p" if n == 3 else None) for n in range(6)]
    parts = {"words": LexicalSearch(4, PLAIN), "meaning": LiveSearch(encoder, {"text_to_text": 4})}
    reranked = RerankedSearch(HybridSearch(parts, 5), WordReranker.of(told_of([d.text for d in texts])))
    source = KnowledgeSearch(LiveSearch(encoder, {"image_to_image": 2}), reranked)
    source.prepare([*world.documents, *texts], world.pictures, tmp_path)
    source.load([*world.documents, *texts], world.pictures, tmp_path)
    asked = dataclasses.replace(world.queries[0], question="guideline 3 on effusion")
    found = source.retrieve([asked, dataclasses.replace(asked, patient_id="p")])
    assert [c.id for c in found[0].candidates][2] == "t3"
    assert "t3" not in [c.id for c in found[1].candidates]
    assert (tmp_path / "documents" / "words" / "lexical.json").is_file()
