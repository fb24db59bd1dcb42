"""Terms of a graph: found by any of their names, and by nothing else; hostile words change nothing (HeteroRAG, H07)."""

import dataclasses
import errno
import hashlib
import sqlite3

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from medrag_lightning.disk import DiskError
from medrag_lightning.interfaces import CandidateSource, Reranker
from medrag_lightning.records import Document, ImageRef, Query
from medrag_lightning.records.terms import Term, read_term, term_text
from medrag_lightning.retrieval import graph_store
from medrag_lightning.retrieval.candidates import CachedTable, Remembered, write_candidates
from medrag_lightning.retrieval.corpus_search import CorpusSearch
from medrag_lightning.retrieval.graph import GraphSearch
from medrag_lightning.retrieval.knowledge_search import KnowledgeSearch
from medrag_lightning.retrieval.relation_ranking import WordOverlap
from medrag_lightning.retrieval.source import NoEvidence

TERMS = [
    Term(
        "D:1",
        ("dengue disease", "Dengue Fever", "breakbone fever"),
        (("HPO", "From HPO."), ("NCI", "From NCI."), ("MSH", "From MeSH."), ("Own", "Ours.")),
        (
            ("dengue disease", "is_a", "viral infectious disease"),
            *(("dengue disease", "has_symptom", f"symptom {n}") for n in range(12)),
            ("dengue disease", "transmitted_by", "Aedes mosquito"),
            ("Dengue Disease", "TRANSMITTED_BY", "aedes mosquito"),
        ),
    ),
    Term("D:2", ("viral infectious disease",), (("Own", "Ours."), ("Other", "Others'."))),
    Term("D:3", ("acute lymphoblastic leukemia", "ALL", "acute lymphoblastic leukaemia")),
    Term("D:4", ("Crohn's disease", 'so-called "regional" ileitis', "100%_pure ileitis")),
    Term("D:5", ("1,4-phenylenediamine allergic contact dermatitis",), (), (("x", "has_allergic_trigger", "PPD"),)),
    Term("D:6", ("pneumonia", "acute pneumonia")),
    Term("D:7", ("lobar pneumonia of the elderly",)),
    Term("D:8", ("nasopharyngitis", "common cold")),
    Term("D:9", ("Common Cold",), (("", "A preferred name comes before a synonym."),)),
]


def documents(terms=TERMS, source="graph"):
    return [Document(term.id, term_text(term), source=source, license="CC0") for term in terms]


def ready(folder, told=None, **settings):
    source = GraphSearch(**{"corpus": "graph"} | settings)
    told = documents() if told is None else told
    source.prepare(told, None, folder)
    source.load(told, None, folder)
    return source


def asked(words=None, question="Which insect brings it?", **more):
    return Query("q", question, searches=None if words is None else (("graph", words),), **more)


def found(source, words=None, **more):
    (one,) = source.retrieve([asked(words, **more)])
    return [candidate.id for candidate in one.candidates]


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return ready(tmp_path_factory.mktemp("graph"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("dengue disease , symptom", ["D:1"]),
        ("DENGUE  fever,symptom", ["D:1"]),
        ("Breakbone Fever", ["D:1"]),
        ("1,4-phenylenediamine allergic contact dermatitis", ["D:5"]),
        ("1,4-phenylenediamine allergic contact dermatitis , trigger", ["D:5"]),
        ("common cold, cause", ["D:9"]),  # preferred before synonym
        ("pneumonias, is a", ["D:6"]),  # all its words, the shortest name
        ("elderly lobar pneumonia", ["D:7"]),
        ("pnuemonia, is a", ["D:6"]),  # typing errors
        ("acute lymphoblastik leukemias", ["D:3"]),
        ("nobody's syndrome, cause", []),
        ("quux pneumonia, cause", []),
        ("disease", []),
        ("ALL, cause", ["D:3"]),
        ("unheard of, cause; pneumonia, cause", ["D:6"]),
        ("", []),
        (" , ", []),
        (";;,;", []),
    ],
)
def test_a_wording_finds_its_term_or_nothing(graph, words, expected):
    assert found(graph, words) == expected


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What are the symptoms of dengue fever?", ["D:1"]),
        ("Breakbone fever", ["D:1"]),
        ("Does ALL affect children with pneumonia?", ["D:3"]),
        ("Are all findings normal?", []),
        ("Are there pneumonias?", ["D:6"]),
        ("Is this a nasopharyngeal tumour?", []),  # its stem is that of nasopharyngitis
        ("Is a lymphoblastic leukemia likely?", []),
        ("Is an acute leukemia, lymphoblastic, likely?", ["D:3"]),
        ("What disease is shown in the image?", []),
        ("", []),
        ("?" * 9000 + " dengue fever", []),
    ],
)
def test_a_question_finds_the_terms_that_it_mentions(graph, question, expected):
    assert found(graph, question=question) == expected


HOSTILE = [
    "'; DROP TABLE term; --",
    '" OR 1=1 --',
    "dengue' UNION SELECT id, id, id FROM term --",
    '"dengue" NEAR("fever", 5) AND text:x* ^ - + {a b} : (',
    "AND OR NOT",
    "%",
    "_%_",
    "?1 :a @b $c",
    "\0dengue\0",
    "\ud800\udfff",
    "dengue" * 2000,
    "a" * 10_000,
    '"' * 10_000,
    ";" * 10_000,
    "dengue " * 2000,
    "".join(map(chr, range(300))),
    "\u202e\u200b\ufeff",
]


@pytest.mark.parametrize("words", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("form", ["{}", "{} , symptom", "pneumonia , {}"])
def test_hostile_words_find_nothing_else_and_change_nothing(graph, words, form):
    store = graph._lookup.store.path
    before = hashlib.sha256(store.read_bytes()).hexdigest()
    told = form.format(words)
    known = {name for word, name in (("dengue", "D:1"), ("pneumonia", "D:6")) if word in told}
    assert set(found(graph, told)) <= known
    assert set(found(graph, question=told)) <= known
    assert hashlib.sha256(store.read_bytes()).hexdigest() == before


@pytest.mark.parametrize("name", ["crohn's disease", 'SO-CALLED "Regional" Ileitis', "100%_pure ileitis"])
def test_quotes_and_wildcards_in_a_name_are_letters(graph, name):
    assert found(graph, f"{name} , cause") == ["D:4"]
    assert found(graph, name.replace("%", "x")) in (["D:4"], [])
    assert found(graph, question=name) == ["D:4"]


def test_the_block(graph):
    (one,) = graph.retrieve([asked("breakbone fever , transmitted by")])
    (candidate,) = one.candidates
    assert (candidate.document.source, candidate.document.license, candidate.id) == ("graph", "CC0", "D:1")
    assert (one.provenance, candidate.score, str(candidate.channel)) == (graph.fingerprint(), 1.0, "text_to_text")
    title, definition, head, first, *rest = candidate.document.text.split("\n")
    assert title == "Term: dengue disease | Dengue Fever | breakbone fever"
    assert definition == "Definition (MSH): From MeSH."
    assert (head, first) == ("Relations:", "- dengue disease | transmitted_by | Aedes mosquito")
    assert len(rest) == 9
    assert rest[0] == "- dengue disease | is_a | viral infectious disease"
    assert len(set(map(str.casefold, rest))) == 9
    assert read_term("D:1", candidate.document.text) is not None


def test_relations_answer_to_the_question_where_no_relation_is_named(graph):
    for words, question in (("dengue disease", "Which mosquito is it?"), (None, "Which mosquito brings dengue fever?")):
        (one,) = graph.retrieve([asked(words, question)])
        assert "Aedes mosquito" in one.candidates[0].document.text.split("\n")[3]


def test_settings_of_a_block(tmp_path):
    (one,) = ready(tmp_path, priority=["Own"], relations=2).retrieve([asked("dengue disease , symptom 7")])
    relations = read_term("D:1", one.candidates[0].document.text).relations
    assert read_term("D:1", one.candidates[0].document.text).definitions == (("Own", "Ours."),)
    assert [thing for *_, thing in relations] == ["symptom 7", "symptom 0"]
    (one,) = ready(tmp_path, relations=0).retrieve([asked("dengue disease")])
    assert "Relations" not in one.candidates[0].document.text
    (one,) = ready(tmp_path, blocks="whole").retrieve([asked("dengue disease")])
    assert one.candidates[0].document == documents()[0]
    (one,) = ready(tmp_path).retrieve([asked("viral infectious disease")])
    assert "Definition (Own): Ours." in one.candidates[0].document.text  # of unknown vocabularies the first
    for settings in ({"top": 0}, {"relations": -1}, {"blocks": "half"}, {"blocks": "whole", "relations": 3}):
        with pytest.raises(ValueError, match=r"top|blocks"):
            GraphSearch(**settings)


class Longest:
    def relevance(self, pairs):
        return np.array([len(text) for _, text in pairs], np.float32)

    def fingerprint(self):
        return "longest"


def test_another_reranker(tmp_path):
    assert isinstance(WordOverlap(), Reranker)
    source = ready(tmp_path, reranker=Longest(), relations=1)
    assert "viral infectious disease" in source.retrieve([asked("dengue disease , symptom")])[0].candidates[0].document.text
    assert source.fingerprint() != ready(tmp_path, relations=1).fingerprint()


def test_word_overlap():
    pairs = [("transmitted by", "dengue | transmits_to | x"), ("the symptom of it", "a | has_symptom | b")]
    pairs += [("the of", "the x"), ("", "a")]
    assert WordOverlap().relevance(pairs).tolist() == [1.0, 1.0, 0.5, 0.0]
    assert WordOverlap().relevance([]).tolist() == []


def test_several_terms_in_turn(tmp_path):
    source = ready(tmp_path, top=2)
    assert found(source, "common cold ; pneumonia") == ["D:9", "D:6"]
    assert found(source, "common cold") == ["D:9", "D:8"]
    assert found(source, question="Is ALL or acute lymphoblastic leukemia a kind of pneumonia?") == ["D:3", "D:6"]
    assert found(source, "pneumonia; acute pneumonia; pneumonia") == ["D:6"]


def test_what_is_not_asked_of_the_graph_is_not_searched(tmp_path, graph):
    left_out = Query("q", "What is dengue fever?", searches=(("textbook", "dengue fever"),))
    assert graph.retrieve([left_out])[0].candidates == ()
    unnamed = ready(tmp_path, corpus="")
    assert [c.id for c in unnamed.retrieve([left_out])[0].candidates] == ["D:1"]


def test_leak_rule(tmp_path):
    told = documents()
    told[5] = dataclasses.replace(told[5], patient_id="p")
    told[8] = dataclasses.replace(told[8], study_id="s")
    source = ready(tmp_path, told, top=2)
    assert found(source, "pneumonia", patient_id="p") == []
    assert found(source, "pneumonia", patient_id="other") == ["D:6"]
    assert found(source, "common cold", study_id="s") == ["D:8"]
    (one,) = source.retrieve([Query("D:1", "dengue fever?")])
    assert one.candidates == ()


def test_only_its_own_corpus(tmp_path):
    other = Document("b", "a page of a book", source="book")
    pictured = Document("i", term_text(TERMS[0]), image=ImageRef("x.png"), source="graph")
    source = ready(tmp_path, [other, *documents(), pictured])
    assert found(source, "pneumonia") == ["D:6"]
    with pytest.raises(ValueError, match=r"document 'b' of 'book' is no term of a graph.*Ontology"):
        ready(tmp_path / "all", [*documents(), other], corpus="")
    assert list((tmp_path / "all").iterdir()) == []
    with pytest.raises(ValueError, match=r"the graph is empty.*Ontology table"):
        ready(tmp_path / "none", [])


def test_another_or_a_damaged_graph_is_refused(tmp_path):
    first = ready(tmp_path)
    assert ready(tmp_path).fingerprint() == first.fingerprint()
    assert ready(tmp_path, top=2).fingerprint() != first.fingerprint()
    with pytest.raises(ValueError, match=r"made of another corpus; delete .*graph.json"):
        ready(tmp_path, documents(TERMS[1:]))
    path = tmp_path / graph_store.FILE
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"graph.sqlite is damaged.*delete .*graph.json"):
            ready(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"graph.sqlite is damaged"):
        first.load(documents(), None, tmp_path)
    (tmp_path / graph_store.MANIFEST).unlink()
    with pytest.raises(ValueError, match="no finished graph"):
        first.load(documents(), None, tmp_path)
    assert found(ready(tmp_path), "pneumonia") == ["D:6"]
    with pytest.raises(RuntimeError, match="before load"):
        GraphSearch().retrieve([asked("pneumonia")])


def test_a_stopped_build_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_store, "BATCH", 2)
    rows, calls = graph_store._rows, []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return rows(*arguments)

    monkeypatch.setattr(graph_store, "_rows", stop)
    with pytest.raises(KeyboardInterrupt):
        ready(tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(graph_store, "_rows", rows)
    assert found(ready(tmp_path), "pneumonia") == ["D:6"]  # in several batches


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    connect = sqlite3.connect

    def small(path, **settings):
        database = connect(path, **settings)
        if path != ":memory:":
            database.execute("PRAGMA max_page_count = 8")  # SQLite then reports what it reports of a full disk
        return database

    monkeypatch.setattr(graph_store.sqlite3, "connect", small)
    with pytest.raises(DiskError, match="the disk is full") as caught:
        ready(tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_it_is_opened_for_reading_alone(graph, tmp_path):
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        graph._lookup.store._db.execute("DELETE FROM term")
    odd = tmp_path / "a?mode=rwc#%41 b"
    assert found(ready(odd), "pneumonia") == ["D:6"]
    assert sorted(path.name for path in odd.iterdir()) == [graph_store.MANIFEST, graph_store.FILE]


def test_kept_candidates_keep_their_blocks(tmp_path):
    told = documents()
    source = ready(tmp_path, top=2)
    queries = [asked("dengue disease , transmitted by; pneumonia"), dataclasses.replace(asked("nobody"), id="r")]
    before = source.retrieve(queries)
    assert before[0].candidates[0].document.text != told[0].text
    write_candidates(tmp_path / "kept.arrow", queries, before, source.fingerprint(), told)
    table = CachedTable(str(tmp_path / "kept.arrow"))
    table.load(told, None, tmp_path)
    assert table.retrieve(queries) == before
    kept = Remembered(source)
    kept.load(told, None, tmp_path)
    assert [one.candidates for one in kept.retrieve(queries)] == [one.candidates for one in before]
    source.retrieve = None  # a second time nothing is searched
    assert [one.candidates for one in kept.retrieve(queries)] == [one.candidates for one in before]


@pytest.mark.parametrize(("name", "of"), [("graph", None), ("terms", {"terms": ["graph"]})])
def test_as_one_of_several_corpora(tmp_path, name, of):
    source = CorpusSearch({"book": NoEvidence(), name: GraphSearch(corpus=name)}, of)
    told = [Document("b", "a page", source="book"), *documents()]
    source.prepare(told, None, tmp_path)
    source.load(told, None, tmp_path)
    query = Query("q", "What is pneumonia?", searches=(("book", "x"), (name, "breakbone fever , symptom")))
    plain = dataclasses.replace(query, searches=None)
    silent = dataclasses.replace(query, searches=(("book", "x"), (name, "")))
    assert [[c.id for c in one.candidates] for one in source.retrieve([query, plain, silent])] == [["D:1"], ["D:6"], []]


def test_beside_reports(tmp_path):
    source = KnowledgeSearch(NoEvidence(), GraphSearch())
    told = [Document("i", "a report", ImageRef("x.png")), *documents()]
    source.prepare(told, None, tmp_path)
    source.load(told, None, tmp_path)
    assert [c.id for c in source.retrieve([asked(None, "What is breakbone fever?")])[0].candidates] == ["D:1"]


def test_it_can_be_named_in_a_config():
    parser = ArgumentParser()
    parser.add_argument("--source", type=CandidateSource)
    init = {"top": 2, "relations": 5, "priority": ["MSH"], "corpus": "graph", "reranker": None}
    told = {"source": {"class_path": "medrag_lightning.retrieval.graph.GraphSearch", "init_args": init}}
    assert isinstance(parser.instantiate(parser.parse_object(told)).source, GraphSearch)


@pytest.mark.data
def test_the_disease_ontology(medrag_data, tmp_path):
    from medrag_lightning.data.tables import Ontology

    folder = medrag_data / "text"
    table = Ontology(str(folder / "disease_ontology.jsonl"), str(folder / "disease_ontology_triples.tsv"), name="graph")
    source = ready(tmp_path, table.documents())
    (one,) = source.retrieve([asked("Breakbone Fever , is a")])
    relations = read_term("DOID:12205", one.candidates[0].document.text).relations
    assert [thing for *_, thing in relations] == ["viral infectious disease", "Dengue virus"]
    names = [read_term(document.id, document.text).name for document in table.documents()[::40]]
    hits = source.retrieve([dataclasses.replace(asked(f"{name} , is a"), id=f"q{at}") for at, name in enumerate(names)])
    assert all(hit.candidates[0].id == document.id for hit, document in zip(hits, table.documents()[::40], strict=True))
