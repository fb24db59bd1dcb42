"""The mini-hospital: reproducible, free of leaks and shortcuts, and honest about which evidence answers what."""

from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medrag_lightning.artifacts import sha256_file
from medrag_lightning.data.minihospital import LICENSE, SOURCE, MiniHospital
from medrag_lightning.data.minihospital_answers import best_accuracy, oracle_answer
from medrag_lightning.data.minihospital_images import FINDINGS, MODALITIES, Look, draw
from medrag_lightning.data.minihospital_questions import CLINIC_OF, FACTS, MARK, MAX_ENTITIES, NEEDS
from medrag_lightning.interfaces import Table
from medrag_lightning.records import AnswerType, Document, ImageRef, Query, Split, shares_identity, unique_by_id

HELD_OUT = (Split.VAL, Split.TEST)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> MiniHospital:
    return MiniHospital(folder=str(tmp_path_factory.mktemp("hospital")))


@pytest.fixture(scope="module")
def queries(hospital: MiniHospital) -> list[Query]:
    return hospital.queries()


@pytest.fixture(scope="module")
def documents(hospital: MiniHospital) -> dict[str, Document]:
    return {document.id: document for document in hospital.documents()}


def fact_in(report: str, fact: str) -> str:
    """The word after the name of a fact in a report."""
    words = report.split()
    return words[words.index(fact) + 1]


def stated(query: Query, report: str) -> str:
    """What a report answers to a question, read from its words alone."""
    if query.question.endswith(("which grade?", "how severe?")):
        return fact_in(report, "grade")
    finding = next(word for word in report.split() if word in FINDINGS)
    if query.question.startswith("is it "):
        return "yes" if finding in query.question.split() else "no"
    return finding


def family(query: Query) -> str:
    """The question without the names that it mentions."""
    return " ".join(word for word in query.question.split(" , ")[-1].split() if word not in FINDINGS)


def test_same_seed_same_bytes_and_records(tmp_path: Path) -> None:
    one, two = (MiniHospital(3, 48, str(tmp_path / name)) for name in ("one", "two"))
    assert one.fingerprint() == two.fingerprint()
    texts = [[(q.id, q.question, q.answer, q.choices, q.relevant_ids, q.poison_ids) for q in h.queries()] for h in (one, two)]
    assert texts[0] == texts[1]
    assert [d.text for d in one.documents()] == [d.text for d in two.documents()]
    assert sha256_file(one.image_file) == sha256_file(two.image_file)


def test_another_seed_or_size_is_another_hospital(tmp_path: Path) -> None:
    hospitals = [MiniHospital(seed, size, str(tmp_path)) for seed, size in ((0, 48), (1, 48), (0, 54))]
    assert len({h.fingerprint() for h in hospitals}) == len({h.image_file for h in hospitals}) == 3
    assert [d.text for d in hospitals[0].documents()] != [d.text for d in hospitals[1].documents()]
    assert sha256_file(hospitals[0].image_file) != sha256_file(hospitals[1].image_file)


def test_images_are_written_once_and_open(tmp_path: Path) -> None:
    hospital = MiniHospital(0, 24, str(tmp_path / "deep" / "folder"))
    assert not hospital.image_file.exists()
    query = hospital.queries()[0]
    written = hospital.image_file.stat().st_mtime_ns
    again = MiniHospital(0, 24, str(tmp_path / "deep" / "folder"))
    assert again.queries() == hospital.queries()
    assert hospital.image_file.stat().st_mtime_ns == written
    assert list(hospital.image_file.parent.iterdir()) == [hospital.image_file]
    assert query.image is not None
    assert ImageRef.parse(str(query.image)) == query.image
    root = hospital.roots()[0].resolve()
    refs = [record.image for record in [*hospital.queries(), *hospital.documents()]]
    with np.load(query.image.path, allow_pickle=False) as arrays:
        for ref in refs:
            assert ref is not None
            assert Path(ref.path).resolve().is_relative_to(root)
            assert ref.index is not None
            assert 0 <= ref.index < len(arrays["images"])
        assert arrays["images"].dtype == np.uint8
        assert arrays["images"].shape[1:] == (64, 64, 3)


def test_is_a_table_with_unique_ids(hospital: MiniHospital, queries: list[Query], documents: dict[str, Document]) -> None:
    assert isinstance(hospital, Table)
    unique_by_id(queries, "queries")
    unique_by_id(hospital.documents(), "documents")
    assert not {query.id for query in queries} & set(documents)


def test_everything_says_synthetic(queries: list[Query], documents: dict[str, Document]) -> None:
    for document in documents.values():
        assert document.text.startswith(f"{MARK} ")
        assert len(document.text.split()) <= 14
        assert document.source == SOURCE
        assert document.license == LICENSE == "synthetic"
        assert MARK in document.id
    for query in queries:
        assert query.source == SOURCE
        assert MARK in query.id
        assert len(query.question.split()) <= 8


def test_patients_and_entities_are_in_one_split(hospital: MiniHospital, queries: list[Query]) -> None:
    patients, splits = defaultdict(set), defaultdict(set)
    for query in queries:
        patients[query.patient_id].add(query.split)
    assert all(len(found) == 1 for found in patients.values())
    for patient in hospital.patients:
        splits[patient.entity.name].add(patient.entity.split)
    assert all(len(found) == 1 for found in splits.values())
    assert len(splits) == len(hospital.entities)


def test_held_out_patients_are_no_evidence(queries: list[Query], documents: dict[str, Document]) -> None:
    held_out = {query.patient_id for query in queries if query.split in HELD_OUT}
    assert held_out
    assert not held_out & {document.patient_id for document in documents.values()}


def test_every_need_and_answer_type_in_every_split(queries: list[Query]) -> None:
    for split in Split:
        for need in NEEDS:
            types = {query.answer_type for query in queries if query.split is split and query.need == need}
            assert types == set(AnswerType), (split, need)
    assert 300 <= sum(query.split is Split.TEST for query in queries) <= 800


def test_relevant_documents_are_legal_and_answer(queries: list[Query], documents: dict[str, Document]) -> None:
    for query in queries:
        assert bool(query.relevant_ids) == (query.need in ("report", "either", "both", "poisoned")), query.id
        for document in map(documents.__getitem__, query.relevant_ids):
            assert shares_identity(query, document) is None
            assert document.modality == query.modality
            assert stated(query, document.text) == query.answer


def test_poison_is_legal_and_wrong(queries: list[Query], documents: dict[str, Document]) -> None:
    for query in queries:
        assert query.poison_ids or query.need != "poisoned", query.id
        assert not set(query.poison_ids) & set(query.relevant_ids)
        for document in map(documents.__getitem__, query.poison_ids):
            assert shares_identity(query, document) is None
            assert stated(query, document.text) != query.answer


def test_poison_is_a_near_duplicate(hospital: MiniHospital, queries: list[Query], documents: dict[str, Document]) -> None:
    images = np.load(hospital.image_file)["images"].astype(float)
    for query in [q for q in queries if q.need == "poisoned" and q.split is Split.TEST]:
        assert query.image is not None
        refs = [documents[name].image for name in query.poison_ids]
        gaps = [np.abs(images[ref.index] - images[query.image.index]).mean() for ref in refs if ref is not None]
        assert min(gaps) < 12.0


def test_no_report_tells_what_only_the_image_shows(queries: list[Query], documents: dict[str, Document]) -> None:
    answers = {query.answer for query in queries if query.need == "image"} - {"yes", "no"}
    assert answers == {"left", "right"}
    assert not any(answers & set(document.text.split()) for document in documents.values())


def test_no_answer_is_a_majority_shortcut(queries: list[Query]) -> None:
    halves = dict.fromkeys(("is it on the left?", "which side?", "where is it?", "is it ?"), 2)
    for split in Split:
        families = defaultdict(Counter)
        for query in queries:
            if query.split is split and query.need != "none":
                families[family(query)][query.answer] += 1
        for name, counts in families.items():
            chance = 1 / {**halves, "which finding?": 12, "what is seen?": 12}.get(name, 6)
            slack = 3.5 * (chance * (1 - chance) / counts.total()) ** 0.5
            assert counts.most_common(1)[0][1] / counts.total() <= chance + slack + 0.02, (split, name, counts)


def test_the_place_of_the_answer_among_the_choices_tells_nothing(queries: list[Query]) -> None:
    places = Counter(query.gold_index for query in queries if query.question == "which finding?")
    assert set(places) == {0, 1, 2, 3}
    assert max(places.values()) / places.total() < 0.3


def test_question_text_alone_does_not_answer(queries: list[Query]) -> None:
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    words: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for query in queries:
        if query.split is Split.TRAIN and query.answer is not None:
            seen[query.question][query.answer] += 1
            for word in query.question.split():
                words[word, family(query)][query.answer] += 1
    for need in ("report", "both"):
        test = [q for q in queries if q.need == need and q.split is Split.TEST]
        if need == "report":  # the question names an entity that training never saw
            assert not any(q.question in seen for q in test)
        hits = [q.answer == _by_words(words, q) for q in test]
        assert np.mean(hits) < 1 / 6 + 3.5 * (1 / 6 * 5 / 6 / len(test)) ** 0.5
    none = [q for q in queries if q.need == "none"]
    assert all(q.answer == CLINIC_OF[q.question.split()[0]] for q in none)


def _by_words(words: dict[tuple[str, str], Counter[str]], query: Query) -> str:
    votes: Counter[str] = Counter()
    for word in query.question.split():
        total = words[word, family(query)].total()
        for answer, count in words[word, family(query)].items():
            votes[answer] += count / total
    return votes.most_common(1)[0][0]


def test_training_facts_do_not_tell_test_facts(hospital: MiniHospital) -> None:
    for name, values in FACTS.items():
        counts = Counter(entity.facts[name] for entity in hospital.entities if entity.split is Split.TEST)
        assert max(counts[value] for value in values) - min(counts[value] for value in values) <= 1


def test_a_hand_counted_hospital(tmp_path: Path) -> None:
    hospital = MiniHospital(0, 24, str(tmp_path))
    assert Counter(entity.split for entity in hospital.entities) == {Split.TRAIN: 2, Split.VAL: 1, Split.TEST: 1}
    assert Counter((p.entity.split, p.asks, p.files) for p in hospital.patients) == {
        (Split.TRAIN, True, True): 12,
        (Split.VAL, True, False): 2,
        (Split.VAL, False, True): 4,
        (Split.TEST, True, False): 2,
        (Split.TEST, False, True): 4,
    }
    asking = [study for study in hospital.studies if study.patient.asks and study.patient.entity.split is Split.TEST]
    test = [query for query in hospital.queries() if query.split is Split.TEST]
    counts = Counter(query.need for query in test)
    assert counts["report"] == len(asking)
    assert counts["both"] == 2 * len(asking)
    assert counts["image"] == 2 * len(asking)
    best = best_accuracy(test, with_retrieval=False)
    assert best["report"] == best["both"] == pytest.approx(1 / 6)
    assert best["all"] == pytest.approx((len(test) - 3 * len(asking) * 5 / 6) / len(test))
    assert set(best_accuracy(test, with_retrieval=True).values()) == {1.0}
    filed = [study for study in hospital.studies if study.patient.files and study.patient.entity.split is Split.TEST]
    assert {len(q.relevant_ids) for q in test if q.need == "both"} == {sum(study.truthful for study in filed)}


def test_best_accuracy_by_hand() -> None:
    closed = Query("a", "which grade?", answer="one", choices=("one", "two"), answer_type=AnswerType.CLOSED, need="both")
    opened = Query("b", "how severe?", answer="two", need="report", relevant_ids=("doc",))
    seen = Query("c", "which zone?", answer="apex", need="image")
    assert best_accuracy([closed, opened, seen], False) == {"both": 0.5, "report": 1 / 6, "image": 1.0, "all": 5 / 9}
    assert best_accuracy([closed, opened, seen], True) == {"both": 0.5, "report": 1.0, "image": 1.0, "all": 2.5 / 3}
    with pytest.raises(ValueError, match="at least one query"):
        best_accuracy([], True)


def test_the_oracle_needs_legal_relevant_evidence(queries: list[Query], documents: dict[str, Document]) -> None:
    for query in queries[:400]:
        relevant = [documents[name] for name in query.relevant_ids]
        poison = [documents[name] for name in query.poison_ids]
        assert oracle_answer(query, relevant) == query.answer
        blind = None if query.need in ("report", "both") else query.answer
        assert oracle_answer(query, []) == oracle_answer(query, poison) == blind
        own = [replace(document, patient_id=query.patient_id) for document in relevant]
        assert oracle_answer(query, own) == blind


def test_larger_hospitals_keep_entities_apart(tmp_path: Path) -> None:
    hospital = MiniHospital(0, 6 * MAX_ENTITIES + 100, str(tmp_path))
    assert len(hospital.entities) == len({entity.name for entity in hospital.entities}) == MAX_ENTITIES
    names = {entity.name for entity in hospital.entities}
    told = [study.told.name for study in hospital.studies if not study.truthful]
    assert told
    assert not names & set(told)


def test_pictures_show_their_traits() -> None:
    look = Look("ct", "nodule", "teal", "right", 0.9, noise=5)
    picture = draw(look, seed=0)
    assert np.array_equal(picture, draw(look, seed=0))
    assert not np.array_equal(picture, draw(replace(look, noise=6), seed=0))
    assert not np.array_equal(picture, draw(look, seed=1))
    assert picture[8:-8, 34:-8].mean() > 2 * picture[8:-8, 8:30].mean()
    others = [draw(replace(look, modality=modality), 0).astype(float) for modality in MODALITIES]
    assert min(np.abs(a - b).mean() for i, a in enumerate(others) for b in others[:i]) > 10
    with pytest.raises(ValueError, match="unknown modality 'mri'"):
        draw(replace(look, modality="mri"), 0)


@pytest.mark.parametrize(("seed", "size", "message"), [(0, 23, "at least 24"), (-1, 48, "must not be negative")])
def test_bad_settings(seed: int, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MiniHospital(seed, size)


def test_sparse_reports_are_few_and_alone_relevant_for_facts(tmp_path):
    full, sparse = (MiniHospital(1, 96, str(tmp_path), reports=kind) for kind in ("full", "sparse"))
    told = {d.id: d.text for d in sparse.documents()}
    assert list(told) == [d.id for d in full.documents()]
    reports = {name for name, text in told.items() if "grade" in text}
    assert 0.1 < len(reports) / len(told) < 0.4
    assert [q.question for q in full.queries()] == [q.question for q in sparse.queries()]
    for query in sparse.queries():
        if query.need in ("report", "both"):
            assert set(query.relevant_ids) <= reports
            assert query.relevant_ids or query.split is Split.TRAIN
    with pytest.raises(ValueError, match="sparse"):
        MiniHospital(reports="none")
