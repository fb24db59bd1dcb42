"""Training questions in parts: by patient, every question in one, whatever else there is."""

import pytest

from medrag_lightning.data.train_part import train_part
from medrag_lightning.records import Query


def _queries(count: int) -> list[Query]:
    return [Query(f"q{i}", "what is seen?", answer="x", patient_id=f"p{i // 3}") for i in range(count)]


def test_parts_share_out_the_patients_and_lose_nothing() -> None:
    queries = _queries(600)
    parts = [train_part(queries, f"{n}/3") for n in (1, 2, 3)]
    assert sorted(q.id for part in parts for q in part) == sorted(q.id for q in queries)
    patients = [{q.patient_id for q in part} for part in parts]
    assert not patients[0] & patients[1]
    assert not patients[0] & patients[2]
    assert not patients[1] & patients[2]
    assert all(40 <= len(of) <= 95 for of in patients)


def test_a_question_stays_in_its_part_when_others_come_or_go() -> None:
    queries = _queries(90)
    assert train_part(queries[30:], "1/2") == [q for q in train_part(queries, "1/2") if q in queries[30:]]
    assert train_part(queries, "all") == queries


@pytest.mark.parametrize("told", ["0/2", "3/2", "half", "1/0", "1"])
def test_something_else_is_refused(told: str) -> None:
    with pytest.raises(ValueError, match=r"data\.train_part must be all"):
        train_part(_queries(3), told)
