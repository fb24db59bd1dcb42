"""The five corpora of the mini-hospital: every fact in one place and in its own word, and the right words find it."""

import dataclasses
import itertools
from collections import Counter, defaultdict

import pytest

from medrag_lightning.data.minihospital import MiniHospital
from medrag_lightning.data.minihospital_answers import best_accuracy, oracle_answer
from medrag_lightning.data.minihospital_corpora import CORPORA, PLACES, asked_fact, best_searches
from medrag_lightning.data.minihospital_questions import FACTS, MARK, NEEDS
from medrag_lightning.data.minihospital_texts import NUMBERS, TEXT_NEEDS, is_text
from medrag_lightning.metrics.search_hits import hit_at
from medrag_lightning.records import AnswerType, Split, unique_by_id
from medrag_lightning.records.searches import TAG
from medrag_lightning.records.terms import read_term
from medrag_lightning.retrieval.corpus_search import CorpusSearch
from medrag_lightning.retrieval.graph import GraphSearch
from medrag_lightning.retrieval.lexical import LexicalSearch


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    return MiniHospital(3, 288, folder=str(tmp_path_factory.mktemp("hospital")), texts=True, corpora="five")


@pytest.fixture(scope="module")
def documents(hospital):
    return {document.id: document for document in hospital.documents()}


@pytest.fixture(scope="module")
def queries(hospital):
    return [query for query in hospital.queries() if query.need in TEXT_NEEDS]


@pytest.fixture(scope="module")
def entity_of(hospital):
    return {study.id: study.patient.entity for study in hospital.studies}


def words(text):
    return [word for line in text.splitlines() for word in line.replace("|", " ").split()]


def pairs(text):
    return [" ".join(pair) for line in text.splitlines() for pair in itertools.pairwise(line.split())]


def test_reports_and_their_questions_stay_and_texts_are_others(hospital):
    old = MiniHospital(3, 288, folder=str(hospital.folder))
    two = MiniHospital(3, 288, folder=str(hospital.folder), texts=True)
    assert hospital.image_file == old.image_file
    assert len({hospital.fingerprint(), old.fingerprint(), two.fingerprint()}) == 3
    assert [document for document in hospital.documents() if document.image] == old.documents()
    assert [query for query in hospital.queries() if query.need in NEEDS] == old.queries()
    again = MiniHospital(3, 288, folder=str(hospital.folder), texts=True, corpora="five")
    assert (again.documents(), again.queries()) == (hospital.documents(), hospital.queries())


def test_every_corpus_is_there_short_synthetic_and_fit_for_a_tag(hospital, documents):
    texts = [document for document in documents.values() if document.image is None]
    assert {document.corpus for document in texts} == set(CORPORA) == {place.corpus for place in PLACES.values()}
    assert all(TAG.fullmatch(name) for name in CORPORA)
    for document in texts:
        assert is_text(document.id)
        assert MARK in document.text
        assert MARK in document.id + document.license
        assert len(words(document.text)) <= 32
        assert (document.source == "graph") == (read_term(document.id, document.text) is not None)
    assert len({document.text for document in texts}) == len(texts)
    unique_by_id(hospital.documents(), "documents")
    unique_by_id(hospital.queries(), "queries")


def test_the_gold_text_says_the_answer_but_not_the_words_of_the_question(queries, documents, entity_of):
    asked = Counter()
    for query in queries:
        fact, entity = asked_fact(query.question), entity_of[query.study_id]
        (gold,) = [documents[name] for name in query.relevant_ids if is_text(name)]
        told = words(gold.text)
        assert gold.corpus == PLACES[fact].corpus
        assert PLACES[fact].word in told
        assert query.answer in told
        assert entity.name in gold.text
        assert fact not in told
        assert (entity.dye in query.question.split()) == (query.need != "image_document")
        for old in (documents[name].text for name in query.poison_ids if is_text(name)):
            assert "outdated" in old
            assert f"{PLACES[fact].word} " in old
            assert not {f"{start} {query.answer}" for start in ("was", "is", "equals", "at", "|")} & set(pairs(old))
        asked[fact] += 1
    assert set(asked) == set(PLACES)
    assert any(is_text(name) for query in queries for name in query.poison_ids)


def test_words_of_questions_tell_no_fact_and_no_report_does(documents):
    told = defaultdict(set)
    for document in documents.values():
        for word in words(document.text):
            told[word].add(document.corpus)
    for fact, place in PLACES.items():
        assert told[place.word] == {place.corpus}
        assert told[fact] <= {place.corpus}
    assert not any(f" {value}" in d.text for d in documents.values() if "-open" in d.id for value in NUMBERS)
    assert not set(PLACES) & set(FACTS)


def test_facts_are_balanced_and_right_texts_stand_in_no_special_place(hospital, documents):
    for split in Split:
        mine = [hospital.library.lore[entity.number] for entity in hospital.entities if entity.split is split]
        for fact in PLACES:
            counts = Counter(lore.facts[fact] for lore in mine)
            assert max(counts[value] for value in NUMBERS) - min(counts[value] for value in NUMBERS) <= 1
    research = [name for name, document in documents.items() if document.corpus == "research"]
    by_entity = defaultdict(list)
    for name in research:
        by_entity[name.split("-")[2]].append(name.split("-", 3)[3])
    first = Counter(kinds[0] in ("risk", "relapse") for kinds in by_entity.values())
    assert first[True] < 0.7 * len(by_entity)


def test_every_need_has_closed_and_open_questions_in_every_split(queries):
    for split in Split:
        for need in TEXT_NEEDS:
            mine = [query for query in queries if query.split is split and query.need == need]
            assert {query.answer_type for query in mine} == set(AnswerType)


def test_the_oracle_knows_with_gold_texts_and_guesses_without(queries, documents):
    for query in queries:
        shown = [documents[name] for name in query.relevant_ids]
        assert oracle_answer(query, shown) == query.answer
        assert oracle_answer(query, [d for d in shown if d.image]) is None
    assert best_accuracy(queries, True)["all"] == 1.0
    assert best_accuracy(queries, False)["all"] == pytest.approx(1 / len(NUMBERS))


def test_a_question_that_no_text_answers_asks_no_corpus(hospital, entity_of):
    for query in hospital.queries():
        told = best_searches(query.question, entity_of[query.study_id])
        assert (told == ()) == (query.need in NEEDS)


def test_words_of_the_corpus_find_the_text_and_the_question_often_does_not(hospital, queries, entity_of, tmp_path):
    parts = {name: LexicalSearch(2, corpus=name) for name in CORPORA if name != "graph"}
    source = CorpusSearch({**parts, "graph": GraphSearch(1, blocks="whole", corpus="graph")})
    texts = [document for document in hospital.documents() if document.image is None]
    source.prepare(texts, None, tmp_path)
    source.load(texts, None, tmp_path)

    def hit(asked):
        found = source.retrieve(asked)
        ids = [{name: [c.id for c in one.candidates if c.corpus == name] for name in CORPORA} for one in found]
        return [hit_at(told, query.relevant_ids, 2) for told, query in zip(ids, asked, strict=True)]

    some = [query for query in queries if query.split is not Split.TRAIN]
    best = [dataclasses.replace(q, searches=best_searches(q.question, entity_of[q.study_id])) for q in some]
    assert all(hit(best))
    by_need = defaultdict(list)
    for query, found in zip(some, hit(some), strict=True):
        by_need[query.need].append(found)
    assert 0 < sum(by_need["document"]) < 0.6 * len(by_need["document"])
    assert sum(by_need["image_document"]) < 0.3 * len(by_need["image_document"])


@pytest.mark.parametrize(
    ("settings", "said"), [({"corpora": "three", "texts": True}, "two, five"), ({"corpora": "five"}, "texts")]
)
def test_settings_that_say_nothing_are_refused(settings, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        MiniHospital(0, 48, folder=str(tmp_path), **settings)
