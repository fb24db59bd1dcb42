"""Dialogues of the synthetic hospital: follow-ups instead of questions that name an entity, and all else as it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from medrag_lightning.data.minihospital import MiniHospital
from medrag_lightning.records import Query


def worlds(folder: str) -> tuple[MiniHospital, MiniHospital]:
    return tuple(MiniHospital(1, 96, folder, texts=True, dialogues=told) for told in (False, True))


def test_only_questions_that_name_their_entity_change_and_only_in_words_and_history(tmp_path) -> None:
    plain, talked = worlds(str(tmp_path))
    entity_of = {study.id: study.patient.entity.name for study in plain.studies}
    assert plain.documents() == talked.documents()
    assert plain.image_file == talked.image_file
    assert plain.fingerprint() != talked.fingerprint()
    kinds: Counter[int] = Counter()
    for one, other in zip(plain.queries(), talked.queries(), strict=True):
        name = entity_of[str(one.study_id)]
        if not one.question.startswith(f"{name} , "):
            assert one == other
            continue
        assert replace(other, question=one.question, history=()) == one
        assert name not in other.question
        assert other.question.startswith("and ")
        named = [place for place, (question, _) in enumerate(other.history) if question.startswith(name)]
        assert len(named) == 1, "the entity stands in the history, once"
        kinds[10 * len(other.history) + named[0]] += 1
    total = sum(kinds.values())
    assert total > 300
    for kind, share in {10: 0.5, 21: 0.3, 20: 0.2}.items():
        assert abs(kinds[kind] / total - share) < 0.07


def test_a_history_holds_no_answer_to_a_question_of_the_hospital(tmp_path) -> None:
    _, talked = worlds(str(tmp_path))
    told: list[Query] = [query for query in talked.queries() if query.history]
    assert {answer for query in told for _, answer in query.history} == {"yes", "no"}
    assert {answer for query in told for question, answer in query.history if "treated" in question} == {"yes"}
