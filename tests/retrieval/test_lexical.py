"""BM25 search: equal to the formula and to the library's own index, ties by row, the leak rule, damage and change refused."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from medrag_lightning.interfaces import CandidateSource
from medrag_lightning.records import Channel, Document, Query, shares_identity
from medrag_lightning.retrieval import lexical_index
from medrag_lightning.retrieval.building import Report
from medrag_lightning.retrieval.channels import SIDES_OF
from medrag_lightning.retrieval.knowledge_search import KnowledgeSearch
from medrag_lightning.retrieval.lexical import LexicalSearch
from medrag_lightning.retrieval.lexical_index import Bm25Settings, LexicalIndex, best_rows, build_index
from medrag_lightning.retrieval.source import LiveSearch
from medrag_lightning.retrieval.words import Words, WordSettings

bm25s = pytest.importorskip("bm25s", reason="the extra `text` is not installed")
PLAIN = WordSettings(stopwords="none", stemmer="none")
TEXTS = ["cough and fever", "fever fever fever of unknown cause", "a broken rib", "no finding", "cough", "", "rib, broken"]


def source_of(texts, folder, top=3, **settings):
    documents = [Document(f"d{n}", text or " ", source="texts") for n, text in enumerate(texts)]
    return ready(LexicalSearch(top, settings.pop("words", PLAIN), **settings), documents, folder)


def ready(source, documents, folder, open_image=None):
    source.prepare(documents, open_image, folder)
    source.load(documents, open_image, folder)
    return source


def ids(source, question, **fields):
    (one,) = source.retrieve([Query("q", question, **fields)])
    return [candidate.id for candidate in one.candidates]


def test_scores_are_the_formula(tmp_path):
    source = source_of(TEXTS, tmp_path, bm25=Bm25Settings(1.2, 0.75))
    (one,) = source.retrieve([Query("q", "Fever, or a cough? cough")])
    kept = [re.findall(r"\w+", text) for text in TEXTS if text]
    mean = sum(map(len, kept)) / len(kept)

    def bm25(words):
        total = 0.0
        for word in ("fever", "or", "a", "cough"):
            df = sum(word in other for other in kept)
            tf = words.count(word)
            total += math.log(1 + (len(kept) - df + 0.5) / (df + 0.5)) * tf / (tf + 1.2 * (0.25 + 0.75 * len(words) / mean))
        return total

    expected = sorted(((bm25(words), -n) for n, words in enumerate(kept)), reverse=True)[:3]
    assert [c.score for c in one.candidates] == pytest.approx([score for score, _ in expected], rel=1e-5)
    assert [c.channel for c in one.candidates] == [Channel.LEXICAL] * 3
    assert ids(source, "Fever, or a cough? cough")[0] == "d0"
    assert isinstance(source, CandidateSource)


@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_arrays_are_those_of_the_library(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(lexical_index, "TEXTS_AT_ONCE", at_once)
    monkeypatch.setattr(lexical_index, "ENTRIES_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in rng.zipf(1.5, rng.integers(0, 30)) % 50) for _ in range(60)]
    words = Words(PLAIN)
    index = build_index(tmp_path, iter(texts), 60, words, Bm25Settings(), "told", Report("texts", 60, None))
    library = bm25s.BM25(k1=0.9, b=0.4)
    vocabulary = {}
    numbers = [[vocabulary.setdefault(word, len(vocabulary)) for word in words.split(text)] for text in texts]
    library.index((numbers, vocabulary), show_progress=False)
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(np.load(tmp_path / f"lexical.{name}.npy"), library.scores[name])
    vocabulary.pop("", None)  # the library adds it
    assert json.loads((tmp_path / "lexical.vocabulary.json").read_text()) == vocabulary
    asked = ["w1", "w7", "w1", "never"]
    np.testing.assert_array_equal(index.scores(asked), library.get_scores_from_ids([vocabulary["w1"], vocabulary["w7"]]))
    assert {path.name for path in tmp_path.iterdir()} == {"lexical.json", *lexical_index.FILES}


def test_arrays_are_mapped(tmp_path):
    index = source_of(TEXTS, tmp_path)._index
    assert all(isinstance(index._engine.scores[name], np.memmap) for name in ("data", "indices", "indptr"))


def test_best_rows_takes_the_lower_row_of_equals_and_nothing_without_score():
    scores = np.float32([0, 2, 1, 2, 0, 2, 3])
    assert best_rows(scores, 3).tolist() == [6, 1, 3]
    assert best_rows(scores, 6).tolist() == best_rows(scores, 70).tolist() == [6, 1, 3, 5, 2]
    assert best_rows(np.zeros(5, np.float32), 2).tolist() == []


def test_a_text_without_a_word_of_the_question_is_no_candidate(tmp_path):
    source = source_of(TEXTS, tmp_path)
    assert ids(source, "broken") == ["d2", "d6"] or ids(source, "broken") == ["d6", "d2"]
    assert ids(source, "unheard words") == ids(source, "  ") == ids(source, "?!") == []


def test_stems_and_stop_words(tmp_path):
    pytest.importorskip("Stemmer", reason="the extra `text` is not installed")
    source = source_of(["Pleural effusions.", "What is the heart?"], tmp_path / "a", words=WordSettings())
    assert ids(source, "What is an EFFUSION?") == ["d0"]
    plain = source_of(["Pleural effusions.", "What is the heart?"], tmp_path / "b")
    assert ids(plain, "What is an EFFUSION?") == ["d1"]
    words = Words(WordSettings("english", "english"))
    assert words.split("The effusions of what?") == ["effus", "what"]
    assert Words(WordSettings()).split("The effusions of what?") == ["effus"]
    told = {Words(WordSettings(stop, stem)).fingerprint() for stop in ("english", "none") for stem in ("english", "none")}
    assert len(told) == 4


def test_leak_rule_looks_further_down(world, tmp_path):
    said = [dataclasses.replace(d, text=d.text and "opacity " * (40 - n)) for n, d in enumerate(world.documents)]
    source = ready(LexicalSearch(2, PLAIN), said, tmp_path, world.pictures)
    asked = Query("q", "opacity?", patient_id="p0")
    unruled = ids(source, "opacity?")
    (one,) = source.retrieve([asked])
    assert unruled == ["d0", "d1"]
    assert len(one.candidates) == 2
    assert not any(shares_identity(asked, candidate.document) for candidate in one.candidates)
    many = [dataclasses.replace(d, patient_id="p" if n < 30 else "other") for n, d in enumerate(said)]
    source = ready(LexicalSearch(2, PLAIN), many, tmp_path / "many", world.pictures)
    assert ids(source, "opacity?", patient_id="p") == ["d30", "d31"]


def test_a_copy_of_the_querys_image_is_no_evidence(world, tmp_path):
    said = [dataclasses.replace(d, text="opacity") for d in world.documents]
    world.pictures.pixels["copy.png"] = world.pictures.pixels[said[0].image.path]
    source = ready(LexicalSearch(1, PLAIN), said, tmp_path, world.pictures)
    assert ids(source, "opacity") == ["d0"]
    assert ids(source, "opacity", image=type(said[0].image)("copy.png")) == ["d1"]


def test_each_text_once_where_asked(tmp_path):
    texts = ["one word", "one word", "one word more"]
    assert ids(source_of(texts, tmp_path / "a", top=2), "one") == ["d0", "d1"]
    assert ids(source_of(texts, tmp_path / "b", top=2, distinct_texts=True), "one") == ["d0", "d2"]


def test_searches_of_the_query_are_asked(tmp_path):
    source = source_of(TEXTS, tmp_path, top=1, corpus="texts")
    assert ids(source, "rib broken", searches=(("texts", "cough"),)) == ["d4"]
    assert ids(source, "rib broken", searches=(("other", "cough"),)) == []
    assert ids(source, "rib finding", searches=None) != []


def test_fingerprint_follows_what_candidates_depend_on(tmp_path):
    told = {
        source_of(TEXTS, tmp_path / "a").fingerprint(),
        source_of(TEXTS, tmp_path / "b", top=2).fingerprint(),
        source_of(TEXTS, tmp_path / "c", bm25=Bm25Settings(1.5)).fingerprint(),
        source_of(TEXTS, tmp_path / "d", words=WordSettings("english", "none")).fingerprint(),
        source_of(TEXTS[:-1], tmp_path / "e").fingerprint(),
        source_of(TEXTS, tmp_path / "f", distinct_texts=True).fingerprint(),
        source_of(TEXTS, tmp_path / "g", corpus="texts").fingerprint(),
    }
    assert len(told) == 7
    assert source_of(TEXTS, tmp_path / "a").fingerprint() in told
    with pytest.raises(RuntimeError, match=r"before load"):
        LexicalSearch(1, PLAIN).fingerprint()


def test_an_index_of_another_corpus_is_refused(tmp_path):
    source_of(TEXTS, tmp_path)
    with pytest.raises(ValueError, match=r"another corpus"):
        source_of([*TEXTS, "more"], tmp_path)
    with pytest.raises(ValueError, match=r"bm25 settings"):
        source_of(TEXTS, tmp_path, bm25=Bm25Settings(2.0))


@pytest.mark.parametrize("name", ["lexical.json", *lexical_index.FILES])
def test_damage_is_refused(tmp_path, name):
    source = source_of(TEXTS, tmp_path)
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged|schema|not valid|another corpus"):
        source.prepare(source._documents, None, tmp_path)
    (tmp_path / name).write_bytes(data[:-1])
    with pytest.raises(ValueError, match=r"damaged|bytes|not valid"):
        source.load(source._documents, None, tmp_path)


def test_an_interrupted_build_leaves_none(tmp_path):
    def texts():
        yield "one"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(tmp_path, texts(), 2, Words(PLAIN), Bm25Settings(), "told", Report("texts", 2, None))
    assert not LexicalIndex.exists(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".lexical.parts.killed").mkdir()
    source_of(TEXTS, tmp_path)
    assert not (tmp_path / ".lexical.parts.killed").exists()


def test_nothing_to_find_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"no texts"):
        source_of(["", " "], tmp_path)
    with pytest.raises(ValueError, match=r"stop words or signs"):
        source_of(["?", "..."], tmp_path)
    for wrong in (lambda: LexicalSearch(0), lambda: Bm25Settings(-1), lambda: Bm25Settings(1, 2), lambda: WordSettings("all")):
        with pytest.raises(ValueError, match=r"must be|needs"):
            wrong()


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ValueError, match=r"bm25s, which is not installed.*medrag-lightning\[text\]"):
        source_of(TEXTS, tmp_path)
    monkeypatch.setitem(sys.modules, "Stemmer", None)
    with pytest.raises(ValueError, match=r"PyStemmer"):
        Words(WordSettings("none", "english"))


def test_as_the_documents_of_knowledge_search(world, encoder, tmp_path):
    texts = [Document(f"t{n}", f"guideline {n} on effusion") for n in range(4)]
    source = KnowledgeSearch(LiveSearch(encoder, {"image_to_image": 2}), LexicalSearch(2, PLAIN))
    ready(source, [*world.documents, *texts], tmp_path, world.pictures)
    (one,) = source.retrieve([dataclasses.replace(world.queries[0], question="guideline 3?")])
    assert [c.channel for c in one.candidates][-1] is Channel.LEXICAL
    assert one.candidates[2].id == "t3"


def test_only_four_channels_compare_vectors():
    compared = {channel for channel in Channel if channel.compares_vectors}
    assert compared == set(SIDES_OF)


def test_it_is_configured_in_yaml():
    parser = ArgumentParser()
    parser.add_argument("--source", type=CandidateSource)
    text = {
        "class_path": "medrag_lightning.retrieval.lexical.LexicalSearch",
        "init_args": {"top": 4, "words": {"stemmer": "none"}, "bm25": {"k1": 1.2}},
    }
    made = parser.instantiate_classes(parser.parse_object({"source": text})).source
    assert (made.top, made.words.stemmer, made.bm25) == (4, "none", Bm25Settings(1.2))
