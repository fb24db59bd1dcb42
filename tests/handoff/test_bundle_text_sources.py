"""Bundles of searches by words and sentences, hybrid, re-ranked, of a graph: the same candidates, every change is found."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from transformers import BertForSequenceClassification

pytest.importorskip("bm25s", reason="the extra `text` is not installed")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))
from bundle_world import CANARY, STEERED, World, answerer, export, in_this_process, live, reader
from text_folders import save

import medrag_lightning
from medrag_lightning.handoff.bundle import export as exporting
from medrag_lightning.handoff.bundle.identities import Identities
from medrag_lightning.handoff.bundle.json_schema import validate
from medrag_lightning.handoff.bundle.onnx_towers import unwritten
from medrag_lightning.handoff.bundle.probes import choose_probes, read_probes
from medrag_lightning.handoff.bundle.source_checks import check_source
from medrag_lightning.handoff.bundle.sums import write_sums
from medrag_lightning.handoff.bundle.system import system_schema
from medrag_lightning.handoff.bundle.verify import verify_bundle
from medrag_lightning.models.cross_encoder import CrossEncoder
from medrag_lightning.models.sentence_encoder import SentenceEncoder
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.records import Document
from medrag_lightning.records.terms import Term, term_text
from medrag_lightning.retrieval.candidates import CachedTable
from medrag_lightning.retrieval.corpus_search import CorpusSearch
from medrag_lightning.retrieval.graph import GraphSearch
from medrag_lightning.retrieval.hybrid import HybridSearch
from medrag_lightning.retrieval.lexical import LexicalSearch
from medrag_lightning.retrieval.lexical_index import Bm25Settings
from medrag_lightning.retrieval.milvus import MilvusSearch
from medrag_lightning.retrieval.reranked import RerankedSearch
from medrag_lightning.retrieval.selected import SelectedSearch
from medrag_lightning.retrieval.source import LiveSearch, NoEvidence
from medrag_lightning.retrieval.word_reranker_fit import RerankExample, fit_word_reranker
from medrag_lightning.retrieval.words import WordSettings
from medrag_lightning.selection import Selection

TERMS = [
    Term("T:1", ("red", "crimson"), (("MSH", "A warm colour."), ("Own", "Ours.")), (("red", "is_a", "colour"),)),
    Term("T:2", ("blue",), (("Own", "A cold colour."),), (("blue", "is_a", "colour"), ("blue", "mixes_with", "red"))),
]


def word_reranker(world):
    texts = [document.text for document in world.documents]
    right = {word: tuple(word in text for text in texts) for word in ("red", "blue")}
    return fit_word_reranker([RerankExample(f"is {word} here?", tuple(texts), right[word]) for word in right], texts)


def lexical(world, folder):
    return LexicalSearch(3, WordSettings("none", "none"), Bm25Settings(1.2, 0.75), distinct_texts=True)


def hybrid(world, folder, **corpus):
    words = LexicalSearch(6, **corpus)
    meaning = LiveSearch(TinyDualEncoder(64), {"text_to_text": 6}, **corpus)
    return HybridSearch({"words": words, "meaning": meaning}, top=4, k=20.0, weights={"words": 2.0})


def reranked(world, folder):
    return RerankedSearch(hybrid(world, folder), word_reranker(world), keep=2, candidates=3)


def selected(world, folder):
    return SelectedSearch(lexical(world, folder), Selection(cut=0.01, k=2))


def graph(world, folder):
    return HybridSearch({"terms": GraphSearch(corpus="graph"), "words": LexicalSearch(4)}, top=3)


def corpora(world, folder):
    """Reports by their images; the book by words and sentences, read by a cross-encoder; the graph."""
    sentences = SentenceEncoder(save(folder / "ask", seed=1)[0], save(folder / "read", seed=2)[0], max_query_tokens=12)
    meaning = LiveSearch(sentences, {"text_to_text": 4}, corpus="book")
    pool = HybridSearch({"words": LexicalSearch(6, corpus="book"), "meaning": meaning}, top=4)
    judge = CrossEncoder(save(folder / "judge", BertForSequenceClassification, seed=3)[0], max_tokens=24)
    book = RerankedSearch(pool, judge, keep=2, corpus="book")
    terms = GraphSearch(2, relations=1, priority=["Own"], reranker=word_reranker(world), corpus="graph")
    return CorpusSearch({"reports": live({"image_to_image": 2}), "book": book, "graph": terms})


SOURCES = {f.__name__: f for f in (lexical, hybrid, reranked, selected, graph, corpora)}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World(tmp_path_factory.mktemp("world"))
    made.documents += [Document(term.id, term_text(term), source="graph", license="CC0") for term in TERMS]
    asked = {1: (("book", "blue is cold"), ("graph", "blue , mixes_with")), 4: (("book", "warm"),)}
    made.queries = [replace(query, searches=asked.get(n)) for n, query in enumerate(made.queries)]
    for n, words in {0: "red", 2: "red or blue", 3: "cold", 5: "crimson", 6: "report 7"}.items():
        made.queries[n] = replace(made.queries[n], question=f"which colour is it, {words}?")
    return made


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(exporting, "ask_in_clean_process", in_this_process)


def told_of(found, identities=None):
    """Everything of the candidates; ids as the bundle has them."""

    def called(candidate):
        return candidate.id if identities is None else identities.of("record", candidate.id)

    return [[(called(c), c.document.text, c.score, c.channel) for c in one.candidates] for one in found]


@pytest.mark.parametrize("name", SOURCES)
def test_the_bundle_finds_the_same_candidates_and_answers_alike(world, tmp_path, here, monkeypatch, name):
    if name == "corpora":  # once in a process where no training package can be imported
        monkeypatch.undo()
    made = answerer(world, tmp_path, reader(), SOURCES[name](world, tmp_path), **STEERED)
    told = export(world, made, tmp_path, probes=8)
    bundle = tmp_path / "bundle"
    assert told["parity"]["max_abs_delta_logp_nats"] <= 1e-5
    assert told["inside"]["documents"] == len(world.documents), "each document is counted once"
    assert told["inside"]["needs"] == "medrag-lightning[runtime,text]"
    found = verify_bundle(bundle)
    assert found.faults == []
    assert dict(found.inside)["needs"] == "medrag-lightning[runtime,text]"
    loaded = medrag_lightning.load_bundle(bundle)
    expected = told_of(made.source.retrieve(choose_probes(world.queries, 8)), Identities.read(bundle / "identities.key"))
    assert told_of(loaded.source.retrieve(read_probes(bundle)[0])) == expected
    assert len({str(one) for one in expected}) > 2, "a search that finds the same for everything proves nothing"
    needles = [CANARY.encode(), str(tmp_path).encode()]
    assert not [path for path in bundle.rglob("*") if path.is_file() and any(n in path.read_bytes() for n in needles)]


def test_what_a_generator_wrote_is_asked_of_the_bundle_too(world, tmp_path, here):
    made = answerer(world, tmp_path, reader(), corpora(world, tmp_path), **STEERED)
    export(world, made, tmp_path, probes=8)
    asked, _ = read_probes(tmp_path / "bundle")
    before = sorted(query.searches for query in world.queries if query.searches is not None)
    assert sorted(query.searches for query in asked if query.searches is not None) == before
    found = medrag_lightning.load_bundle(tmp_path / "bundle").source.retrieve(asked)
    for query, one in zip(asked, found, strict=True):
        if query.searches is not None:
            assert {c.document.corpus for c in one.candidates} == {"reports", *(corpus for corpus, _ in query.searches)}


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    folder, patch = tmp_path_factory.mktemp("whole"), pytest.MonkeyPatch()
    patch.setattr(exporting, "ask_in_clean_process", in_this_process)
    export(world, answerer(world, folder, reader(), corpora(world, folder)), folder, probes=2)
    patch.undo()
    return folder / "bundle"


def test_one_flipped_bit_in_any_file_of_the_evidence_is_found(whole):
    rng = np.random.default_rng(0)
    files = sorted(path for part in ("index", "retriever") for path in (whole / part).rglob("*") if path.is_file())
    names = {path.name for path in files}
    assert {"graph.sqlite", "graph.json", "lexical.json", "lexical.data.npy", "documents.arrow", "graph_reranker.json"} <= names
    assert (whole / "retriever" / "book_reranker" / "model.safetensors") in files
    for path in files:
        data = path.read_bytes()
        for bit in sorted({0, len(data) * 8 - 1, int(rng.integers(len(data) * 8))}):
            spoilt = bytearray(data)
            spoilt[bit // 8] ^= 1 << bit % 8
            path.write_bytes(spoilt)
            assert verify_bundle(whole).faults, f"bit {bit} of {path.name}"
        path.write_bytes(data)
    assert verify_bundle(whole).faults == []


def test_a_graph_that_would_act_is_refused_even_with_right_sums(whole):
    path = next(whole.rglob("graph.sqlite"))
    data, sums = path.read_bytes(), (whole / "SHA256SUMS").read_bytes()
    for statement, words in (
        ("CREATE TRIGGER act AFTER INSERT ON term BEGIN DELETE FROM name; END", "holds the trigger 'act'"),
        ("CREATE VIEW seen AS SELECT * FROM term", "holds the view 'seen'"),
    ):
        database = sqlite3.connect(path)
        database.execute(statement)
        database.close()
        write_sums(whole)
        assert any(words in fault for fault in verify_bundle(whole).faults)
        path.write_bytes(data)
    for spoilt in (b"SQLite format 3\0", data[:-1], data + b"\0", b"\0" * 4096):
        path.write_bytes(spoilt)
        write_sums(whole)
        assert any("graph.sqlite" in fault for fault in verify_bundle(whole).faults)
    path.write_bytes(data)
    (whole / "SHA256SUMS").write_bytes(sums)
    assert verify_bundle(whole).faults == []


@pytest.mark.parametrize("module", ["bm25s", "Stemmer"])
def test_without_the_extra_it_says_what_to_install(whole, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=r"which is not installed: pip install 'medrag-lightning\[text\]'"):
        medrag_lightning.load_bundle(whole)


def _fewer(told):
    told["source"]["keep"] = 1


def _by_meaning(told):
    told["source"]["pool"]["parts"][0]["weight"] = 0.01


@pytest.mark.parametrize("change", [_fewer, _by_meaning])
def test_a_bundle_that_finds_other_evidence_is_not_kept(world, tmp_path, monkeypatch, change):
    def spoilt(bundle, corpus, *rest):
        told = json.loads((bundle / "system.json").read_text())
        change(told)
        (bundle / "system.json").write_text(json.dumps(told))
        return in_this_process(bundle, corpus, *rest)

    monkeypatch.setattr(exporting, "ask_in_clean_process", spoilt)
    with pytest.raises(ValueError, match="other evidence was found"):
        export(world, answerer(world, tmp_path, reader(), reranked(world, tmp_path)), tmp_path, probes=8)
    assert not (tmp_path / "bundle").exists()


class Odd:
    """A re-ranker or a search that no bundle knows."""


def test_what_a_bundle_cannot_hold_is_refused_with_a_remedy(world):
    milvus = MilvusSearch(TinyDualEncoder(8), {"text_to_text": 2})
    words = LexicalSearch(2)
    for source, told in (
        (milvus, "data.source is a MilvusSearch, which finds its vectors in Milvus.*Set it to LiveSearch"),
        (CorpusSearch({"book": milvus}), "the part 'book' of CorpusSearch is a MilvusSearch"),
        (HybridSearch({"a": words, "b": CachedTable("t.arrow")}, 2), "the part 'b' of HybridSearch is a CachedTable"),
        (RerankedSearch(words, Odd()), "cannot hold a re-ranker of class Odd; it knows WordReranker"),
        (GraphSearch(reranker=Odd()), "cannot hold a re-ranker of class Odd"),
        (SelectedSearch(CorpusSearch({"book": words})), "the pool of SelectedSearch is a CorpusSearch"),
        (CorpusSearch({"book": NoEvidence()}), "the part 'book' of CorpusSearch is a NoEvidence"),
        (Odd(), "data.source is a Odd, which is not known to bundles; export with LiveSearch"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            check_source(source)


def test_nested_choices_are_not_tried_without_end():
    spec = {"kind": "lexical", "top": 1, "words": asdict(WordSettings()), "bm25": asdict(Bm25Settings())}
    spec |= {"distinct_texts": False, "corpus": ""}
    for _ in range(28):
        spec = {"kind": "selected", "pool": spec, "rule": asdict(Selection())}
    schema, began = {"$ref": "#/$defs/source", "$defs": system_schema()["$defs"]}, time.monotonic()
    assert validate(json.loads(json.dumps(spec)), schema) == []
    innermost = spec
    while "pool" in innermost:
        innermost = innermost["pool"]
    innermost["kind"] = "os.system"
    assert "is no kind that is known here" in str(validate(spec, schema))
    assert time.monotonic() - began < 5


def test_encoders_without_an_onnx_model_say_why(world, tmp_path, here, monkeypatch):
    monkeypatch.setattr("medrag_lightning.handoff.bundle.onnx_towers.check_onnx_installed", lambda: None)
    assert "without weights" in unwritten(TinyDualEncoder(8))
    assert "optimum-cli" in unwritten(SentenceEncoder("none"))
    from bundle_world import run_of

    from medrag_lightning.handoff.bundle.request import Settings

    said = []
    made = answerer(world, tmp_path, reader(), hybrid(world, tmp_path))
    settings = Settings(tmp_path / "bundle", probes=1, onnx=True)
    exporting.export_bundle(run_of(world, made, tmp_path), settings, said.append, lambda what, done, count: None)
    assert any("--onnx: no model of the encoder meaning: TinyDualEncoder computes without weights" in line for line in said)
