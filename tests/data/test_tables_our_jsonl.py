"""Our own JSONL: questions and evidence."""

from __future__ import annotations

from pathlib import Path

import pytest
from table_files import image_at, jsonl

from medrag_lightning.data.tables import JsonlCorpus, JsonlQueries
from medrag_lightning.interfaces import Table
from medrag_lightning.records import AnswerType, ImageRef, Split, shares_identity

QUESTION = {"id": "q1", "question": "is it there?", "answer": "Yes", "answer_type": "closed"}
QUESTION |= {"split": "train", "image": "a.png"}


def test_questions(tmp_path: Path) -> None:
    image_at(tmp_path / "a.png")
    rows = [
        QUESTION | {"patient_id": "282", "study_id": 5, "modality": "CT", "free": "left alone"},
        {"id": "q2", "question": "which side?", "answer": "left", "choices": ["left", "right"], "split": "val"},
        {"id": "q3", "question": "what?", "split": "test"},
    ]
    table = JsonlQueries(str(jsonl(tmp_path / "ward" / "q.jsonl", rows)), image_root=str(tmp_path))
    assert isinstance(table, Table)
    first, second, third = table.queries()
    assert (first.answer, first.choices, first.answer_type) == ("yes", ("yes", "no"), AnswerType.CLOSED)
    assert (first.patient_id, first.study_id, first.modality) == ("ward:282", "ward:5", "CT")
    assert first.image == ImageRef(str(tmp_path / "a.png"))
    assert (second.answer_type, second.split) == (AnswerType.CLOSED, Split.VAL)
    assert (third.answer, third.answer_type, third.image) == (None, AnswerType.OPEN, None)
    (document,) = table.documents()
    assert document.text == "question: is it there? answer: yes"
    assert shares_identity(first, document) == "id"
    assert table.roots() == [tmp_path]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"question": None}, "key 'question' is empty"),
        ({"split": "held-out"}, "'split' is 'held-out'"),
        ({"answer_type": "yes/no"}, "'answer_type' is 'yes/no'; expected closed or open"),
        ({"answer": "maybe"}, "needs at least two choices"),
        ({"choices": ["left", "right"]}, "answer 'Yes' is not one of its choices"),
        ({"choices": "left, right"}, "expected a list of texts"),
        ({"image": "b.png"}, r"image 'b.png' is not there.*check_images: false"),
        ({"image": "../x.png"}, "lies outside the image folder"),
        ({"image": "https://x.org/a.png"}, "is a URL"),
        ({"patient": "7"}, "unknown key 'patient'; did you mean 'patient_id'"),
    ],
)
def test_bad_questions_are_named(tmp_path: Path, change: dict[str, object], said: str) -> None:
    image_at(tmp_path / "a.png")
    path = jsonl(tmp_path / "q.jsonl", [QUESTION, QUESTION | {"id": "q2"} | change])
    with pytest.raises(ValueError, match=rf"q\.jsonl:2: .*{said}"):
        JsonlQueries(str(path)).queries()


def test_split_for_the_whole_file(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "q.jsonl", [{"id": "q1", "question": "what?"}])
    assert JsonlQueries(str(path), split="test").queries()[0].split is Split.TEST
    with pytest.raises(ValueError, match=r"q\.jsonl:1: key 'split' is missing; add it, or set split"):
        JsonlQueries(str(path)).queries()
    path = jsonl(tmp_path / "q.jsonl", [{"id": "q1", "question": "what?", "split": "test"}])
    with pytest.raises(ValueError, match="the row says split 'test', the table says train"):
        JsonlQueries(str(path), split="train").queries()


def test_missing_images_may_be_checked_later(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "q.jsonl", [QUESTION])
    assert JsonlQueries(str(path), check_images=False).queries()[0].image is not None


def test_corpus_with_mapped_patient(tmp_path: Path) -> None:
    image_at(tmp_path / "cxr" / "images" / "1.png")
    rows = [
        {"id": "d1", "image": "images/1.png", "text": "a", "patient": 282, "source": "atlas", "license": "CC0", "sex": "F"},
        {"id": "d2", "text": "only text", "patient": None},
    ]
    path = jsonl(tmp_path / "cxr" / "corpus.jsonl", rows)
    table = JsonlCorpus(str(path), fields={"patient_id": "patient"})
    first, second = table.documents()
    assert (first.patient_id, first.source, first.license) == ("cxr:282", "atlas", "CC0")
    assert (second.patient_id, second.source, second.image) == (None, "cxr", None)
    assert table.queries() == []
    with pytest.raises(ValueError, match=r"corpus\.jsonl:1: unknown key 'patient'.*fields: \{patient_id: patient\}"):
        JsonlCorpus(str(path)).documents()
    with pytest.raises(ValueError, match="fields: unknown key 'patientid'"):
        JsonlCorpus(str(path), fields={"patientid": "patient"})


def test_corpus_with_splits_must_say_which(tmp_path: Path) -> None:
    rows = [{"id": "1", "text": "a", "split": "train"}, {"id": "2", "text": "b", "split": "valid"}]
    path = str(jsonl(tmp_path / "c.jsonl", rows))
    with pytest.raises(ValueError, match=r"c\.jsonl:1: the row carries split 'train'; say which splits"):
        JsonlCorpus(path).documents()
    assert [d.id for d in JsonlCorpus(path, splits=["train"]).documents()] == ["1"]
    assert [d.id for d in JsonlCorpus(path, splits=["train", "val"]).documents()] == ["1", "2"]


def test_empty_documents_are_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "c.jsonl", [{"id": "1", "text": "a"}, {"id": "2", "text": " "}])
    with pytest.raises(ValueError, match=r"c\.jsonl:2: document '2' has neither text nor image"):
        JsonlCorpus(str(path)).documents()
