"""The rule-based teacher of the mini-hospital: verbatim, without the answer, wrong exactly as often as it is told to be."""

from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from medrag_lightning.artifacts import counter_rng
from medrag_lightning.data.minihospital import MiniHospital
from medrag_lightning.data.minihospital_answers import oracle_answer
from medrag_lightning.data.minihospital_teacher import MiniHospitalTeacher
from medrag_lightning.data.tracing.checking import read_reply
from medrag_lightning.data.tracing.counting import is_right
from medrag_lightning.data.unanswered import unanswered
from medrag_lightning.interfaces import Teacher, TraceTask
from medrag_lightning.records import Query, shares_identity

STEPS = ("rearrange", "initial", "rethink", "final")


@pytest.fixture(scope="module", params=["two", "five", "sparse"])
def hospital(request, tmp_path_factory):
    told = {"corpora": "five"} if request.param == "five" else {"reports": "sparse" if request.param == "sparse" else "full"}
    return MiniHospital(2, 96, folder=str(tmp_path_factory.mktemp("hospital")), texts=True, **told)


@pytest.fixture(scope="module")
def cases(hospital):
    """Questions of every need, each with right, misleading and any other evidence, in a drawn order."""
    documents = hospital.documents()
    by_id = {document.id: document for document in documents}
    made = defaultdict(list)
    for query in hospital.queries():
        rng = counter_rng(0, "found", query.id)
        ids = [
            *query.relevant_ids[:2],
            *(name for name in query.relevant_ids if name.startswith("text")),
            *query.poison_ids[:2],
        ]
        ids += [documents[int(place)].id for place in rng.integers(len(documents), size=4)]
        ids = [name for name in dict.fromkeys(ids) if shares_identity(query, by_id[name]) is None]
        made[query.need].append((query, tuple(by_id[ids[int(place)]] for place in rng.permutation(len(ids)))))
    assert len(made) >= 9
    return [case for mine in made.values() for case in mine[:25]]


def written(teacher, query, documents, attempt=0, gold=None):
    """The four texts; None from the step on whose call failed."""
    said = {}
    for step in STEPS:
        kept = None
        if step != "rearrange":
            images = [document.image is not None for document in documents]
            kept, faults = read_reply("rearrange", said["rearrange"], query, documents, images)
            assert faults == [], faults
        told = (kept, said.get("initial"), said.get("rethink"), gold if step == "final" else None)
        task = TraceTask(step, unanswered(query), None, documents, (None,) * len(documents), *told, attempt)
        (said[step],) = teacher.write([task])
        if said[step] is None:
            break
    return said


def answerable(cases):
    """Those whose evidence tells a perfect reader the answer."""
    return [case for case in cases if oracle_answer(*case) is not None]


def test_with_the_right_evidence_the_last_answer_is_right_for_every_need(hospital, cases):
    teacher = MiniHospitalTeacher(hospital)
    assert isinstance(teacher, Teacher)
    known = answerable(cases)
    assert {query.need for query, _ in known} == {query.need for query, _ in cases}
    for query, documents in known:
        said = written(teacher, query, documents)
        assert is_right(query, said["final"]), (query.question, query.need, said, [document.text for document in documents])
        assert said["final"] in said["rethink"]


def test_it_keeps_right_evidence_and_leaves_misleading_evidence_out(hospital, cases):
    kept = Counter()
    for query, documents in cases:
        text = written(MiniHospitalTeacher(hospital), query, documents)["rearrange"]
        for number, document in enumerate(documents, 1):
            kind = "right" if document.id in query.relevant_ids else "wrong" if document.id in query.poison_ids else "other"
            kept[kind, f"[{number}]" in text] += 1
    assert kept["right", True] > 100
    assert kept["wrong", False] > 30
    assert kept["right", False] == 0
    if hospital.reports == "full":
        assert kept["wrong", True] == 0
    else:  # one image is kept always, and sparse reports leave a question now and then with misleading ones alone
        assert kept["wrong", True] < 0.3 * kept["wrong", False]


def test_first_answers_err_as_often_as_told_and_never_by_mending(hospital, cases):
    cases = answerable(cases)
    for share, low, high in ((0.0, 0.0, 0.0), (0.3, 0.2, 0.4), (1.0, 1.0, 1.0)):
        teacher = MiniHospitalTeacher(hospital, initial_error=share)
        wrong = [not is_right(query, written(teacher, query, documents)["initial"]) for query, documents in cases]
        assert low <= sum(wrong) / len(wrong) <= high
    for query, documents in cases[:20]:
        said = written(MiniHospitalTeacher(hospital, initial_error=1.0), query, documents)
        assert "does not fit" in said["rethink"]


def test_the_right_answer_is_read_in_gold_aware_traces_alone(hospital, cases):
    """Questions that evidence must answer, without it: a guess, the same whatever the answer is."""
    teacher, right = MiniHospitalTeacher(hospital), []
    for query, _ in (case for case in cases if case[0].need in ("both", "report", "document")):
        said = written(teacher, query, ())
        assert said == written(teacher, replace(query, answer=query.choices[0] if query.choices else "canary"), ())
        assert "is a guess" in said["rethink"]
        assert said["final"] == said["initial"]
        right.append(is_right(query, said["final"]))
        assert written(teacher, query, (), gold="canary")["final"] == "canary"
    assert sum(right) / len(right) < 0.5


def test_calls_fail_and_replies_are_malformed_as_often_as_told(hospital, cases):
    failing = MiniHospitalTeacher(hospital, failed_share=0.25)
    said = [written(failing, *case) for case in cases]
    assert 0.17 < sum(one["rearrange"] is None for one in said) / len(said) < 0.33
    assert len({len(one) for one in said}) == 4
    malformed, unusable = MiniHospitalTeacher(hospital, malformed_share=1.0), 0
    for query, documents in cases:
        task = TraceTask("rearrange", unanswered(query), None, documents, (None,) * len(documents))
        (text,) = malformed.write([task])
        unusable += read_reply("rearrange", text, query, documents, [d.image is not None for d in documents])[0] is None
    assert unusable == len(cases)


def test_a_wrong_choice_of_evidence_makes_wrong_last_answers(hospital, cases):
    needed = [case for case in cases if case[0].need in ("both", "report", "document", "image_document", "report_document")]
    teacher = MiniHospitalTeacher(hospital, wrong_share=0.5)
    right = [is_right(query, written(teacher, query, documents)["final"]) for query, documents in needed]
    assert 0.2 < sum(right) / len(right) < 0.95


def test_draws_go_by_seed_and_attempt_and_the_fingerprint_holds_all(hospital, cases):
    told = {"wrong_share": 0.3, "malformed_share": 0.3, "failed_share": 0.1}
    tasks = [TraceTask("rearrange", unanswered(query), None, documents, ()) for query, documents in cases]
    first = MiniHospitalTeacher(hospital, **told).write(tasks)
    assert first == MiniHospitalTeacher(hospital, **told).write(tasks[::-1])[::-1]
    assert first != MiniHospitalTeacher(hospital, seed=1, **told).write(tasks)
    assert first != MiniHospitalTeacher(hospital, **told).write([replace(task, attempt=1) for task in tasks])
    others = [MiniHospitalTeacher(hospital, **{name: 0.5}) for name in (*told, "initial_error")]
    assert (
        len({one.fingerprint() for one in (*others, MiniHospitalTeacher(hospital), MiniHospitalTeacher(hospital, seed=1))}) == 6
    )


def test_questions_of_another_hospital_are_refused(hospital, cases):
    task = TraceTask("initial", Query("q", "which side?", study_id="nobody"), None, (), (), ())
    with pytest.raises(ValueError, match="not of the teacher's mini-hospital"):
        MiniHospitalTeacher(hospital).write([task])
    with pytest.raises(ValueError, match="initial_error is a share"):
        MiniHospitalTeacher(hospital, initial_error=1.5)
