"""The library of the mini-hospital: texts tell what no report tells, the oracle is exact, and the old world is untouched."""

from collections import Counter
from dataclasses import replace

import pytest

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.data.minihospital import SOURCE, MiniHospital
from medrag_lightning.data.minihospital_answers import best_accuracy, oracle_answer
from medrag_lightning.data.minihospital_questions import FACTS, MARK, NEEDS
from medrag_lightning.data.minihospital_texts import ENCYCLOPAEDIA, GUIDELINES, TEXT_FACTS, TEXT_NEEDS, is_text
from medrag_lightning.records import AnswerType, Split, unique_by_id

OLD = {  # seed, size: fingerprint, documents, questions, as they were before there were texts; published figures depend on them
    (0, 48): (
        "cdec860714eaeb8fe5e62fef8050d2d4935007553347c7918ebb5d7733571aaa",
        "e29de61289deae3e4031e3b65d84e5c4260102d51f3ff5abc0550cf664eb9016",
        "9562918137221fc01a9e3968bfe6b6457cfe7ce5e02d62c8cf838d98a34d126e",
    ),
    (1, 1152): (
        "c21130a6df89db454004756821a8fb4b502f89f4bd68109f32a67fc6569ae5b7",
        "72aceb92d8d11b65a69fb27e91108d6dc5fb7b19e808666b4ae135a8260c4832",
        "acb561cda71e867bdd8b2522fef896ee55e934af192eb21262cb699e339ba7ff",
    ),
}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    return MiniHospital(1, folder=str(tmp_path_factory.mktemp("hospital")), texts=True)


@pytest.fixture(scope="module")
def documents(hospital):
    return {document.id: document for document in hospital.documents()}


@pytest.fixture(scope="module")
def queries(hospital):
    return [query for query in hospital.queries() if query.need in TEXT_NEEDS]


def told(documents):
    place = [[d.image.path.split("/")[-1], d.image.index] for d in documents]
    rest = [[d.id, d.text, d.patient_id, d.study_id, d.modality, d.source, d.license] for d in documents]
    return fingerprint("d", [[*one[:2], *where, *one[2:]] for one, where in zip(rest, place, strict=True)])


def asked(queries):
    rows = []
    for q in queries:
        row = [q.id, q.question, q.image.path.split("/")[-1], q.image.index, q.answer, list(q.choices), str(q.answer_type)]
        row += [str(q.split), q.patient_id, q.study_id, q.modality, q.source, q.need]
        rows.append([*row, list(q.relevant_ids), list(q.poison_ids)])
    return fingerprint("q", rows)


@pytest.mark.parametrize("which", list(OLD))
def test_the_world_without_texts_is_what_it_was(which, tmp_path):
    old = MiniHospital(*which, folder=str(tmp_path))
    assert (old.fingerprint(), told(old.documents()), asked(old.queries())) == OLD[which]


def test_texts_change_nothing_else(hospital, tmp_path):
    old = MiniHospital(1, folder=str(hospital.folder))
    assert hospital.image_file == old.image_file
    assert hospital.fingerprint() != old.fingerprint()
    assert [document for document in hospital.documents() if document.image] == old.documents()
    assert [query for query in hospital.queries() if query.need in NEEDS] == old.queries()
    sparse = [MiniHospital(0, 48, str(tmp_path), "sparse", texts) for texts in (False, True)]
    assert [q for q in sparse[1].queries() if q.need in NEEDS] == sparse[0].queries()


def test_texts_are_short_synthetic_and_of_two_corpora(hospital, documents):
    texts = [document for document in documents.values() if document.image is None]
    assert {document.source for document in texts} == {ENCYCLOPAEDIA, GUIDELINES}
    assert {document.source for document in documents.values() if document.image} == {SOURCE}
    for document in texts:
        assert is_text(document.id)
        assert document.text.startswith(f"{MARK} ")
        assert MARK in document.id + document.license
        assert len(document.text.split()) <= 12
        assert document.patient_id is None
        assert document.modality in document.text
    unique_by_id(hospital.documents(), "documents")
    unique_by_id(hospital.queries(), "queries")
    assert len({document.text for document in texts}) == len(texts)


def test_reports_do_not_tell_what_texts_tell(documents):
    assert not any(set(TEXT_FACTS) & set(document.text.split()) for document in documents.values() if document.image)
    assert not set(TEXT_FACTS) & set(FACTS)


def test_facts_are_balanced_and_entities_are_in_one_split(hospital):
    for split in Split:
        mine = [hospital.library.lore[entity.number] for entity in hospital.entities if entity.split is split]
        for fact, values in TEXT_FACTS.items():
            counts = Counter(lore.facts[fact] for lore in mine)
            assert max(counts[value] for value in values) - min(counts[value] for value in values) <= 1
    told = [document.text for document in hospital.library.documents]
    look_alikes = [text for document, text in zip(hospital.library.documents, told, strict=True) if "look-alike" in document.id]
    names = {entity.name for entity in hospital.entities}
    assert len(look_alikes) > 20
    assert not any(name in text for name in names for text in look_alikes)


def test_every_need_has_closed_and_open_questions_in_every_split(queries):
    for split in Split:
        for need in TEXT_NEEDS:
            mine = [query for query in queries if query.split is split and query.need == need]
            assert {query.answer_type for query in mine} == set(AnswerType)
    assert all(len(query.question.split()) <= 8 for query in queries)


def test_relevant_texts_answer_and_outdated_ones_do_not(queries, documents):
    for query in queries:
        texts = [documents[name].text.split() for name in query.relevant_ids if is_text(name)]
        assert len(texts) == 1
        assert texts[0][-1] == query.answer
        named = query.question.split(" , ")[0].split()
        assert texts[0][2 : 2 + len(named)] == named
        for name in query.poison_ids:
            assert query.answer != documents[name].text.split()[-1] or not is_text(name)
            assert "outdated" in documents[name].text.split() if is_text(name) else query.need == "report_document"
    assert any(query.poison_ids for query in queries)


def test_the_image_tells_which_of_several_entries_is_meant(hospital, queries, documents):
    """Modality and finding leave several answers; the dye that the image shows leaves one."""
    entries = [words for document in documents.values() if (words := document.text.split())[1] == "entry"]
    dye = {study.id: study.look.dye for study in hospital.studies}
    several = 0
    for query in (query for query in queries if query.need == "image_document"):
        named, asked_for = query.question.split(" , ")
        fitting = [words for words in entries if words[2:4] == named.split() and words[5] == asked_for.split()[-1][:-1]]
        several += len({words[-1] for words in fitting}) > 1
        assert [words[-1] for words in fitting if words[4] == dye[query.study_id]] == [query.answer]
    assert several > 0.85 * sum(query.need == "image_document" for query in queries)


def test_a_visit_takes_the_grade_of_a_report_and_the_rule_for_it(queries, documents):
    for query in (query for query in queries if query.need == "report_document"):
        named = query.question.split(" , ")[0]
        rules = [d.text.split() for d in documents.values() if d.text.startswith(f"{MARK} guideline {named} ")]
        assert len({words[-1] for words in rules}) == 2  # guidelines alone leave two answers
        reports = [documents[name].text.split() for name in query.relevant_ids if not is_text(name)]
        (grade,) = {words[-1] for words in reports}
        assert [words[-1] for words in rules if words[6] == grade] == [query.answer]


def test_the_oracle_needs_every_kind_of_evidence(queries, documents):
    for query in queries:
        relevant = [documents[name] for name in query.relevant_ids]
        texts, reports = ([d for d in relevant if (d.image is None) is alone] for alone in (True, False))
        both = query.need == "report_document"
        assert oracle_answer(query, relevant) == query.answer
        assert oracle_answer(query, texts) == (None if both else query.answer)
        assert oracle_answer(query, reports) is None
        assert oracle_answer(query, [documents[name] for name in query.poison_ids]) is None
        if both:
            own = [replace(document, patient_id=query.patient_id) for document in reports]
            assert oracle_answer(query, [*texts, *own]) is None


def test_best_accuracy_of_the_new_needs(queries):
    test = [query for query in queries if query.split is Split.TEST]
    assert best_accuracy(test, True) == dict.fromkeys(["all", *TEXT_NEEDS], 1.0)
    assert best_accuracy(test, False) == pytest.approx(dict.fromkeys(["all", *TEXT_NEEDS], 1 / 6))


def test_a_guideline_without_a_report_is_not_relevant(tmp_path):
    sparse = MiniHospital(1, 96, str(tmp_path), "sparse", texts=True).queries()
    lone = [query for query in sparse if query.need == "report_document" and not query.relevant_ids]
    assert lone
    assert set(best_accuracy(lone, True).values()) == {1 / 6}
    assert all(query.relevant_ids for query in sparse if query.need in ("document", "image_document"))
