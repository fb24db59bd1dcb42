"""VQA-RAD, SLAKE, PathVQA and chat rows in their layouts on disk, each with a planted fault."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table_files import image_at, json_list, jsonl

from medrag_lightning.data.tables import MessagesRows, PathVqa, Slake, VqaRad
from medrag_lightning.data.tables.answers import closed_answer
from medrag_lightning.interfaces import Table
from medrag_lightning.records import AnswerType, Split, shares_identity


@pytest.mark.parametrize(
    ("question", "answer", "choices", "kept"),
    [
        ("Is there fluid?", "YES", ("yes", "no"), "yes"),
        ("Is it large or small?", "No.", ("yes", "no"), "no"),
        ("Is the lesion on the patient's right or left side?", "Left side", ("right", "left"), "left"),
        ("Is this an MRI or a CT scan?", "mri", ("MRI", "CT"), "MRI"),
        ("Is gray or white matter highlighted?", "Gray matter", ("gray", "white"), "gray"),
        ("Is it more or less dense than the rest?", "less dense", ("more", "less"), "less"),
        ("Does the appendix appear normal or abnormal?", "Normal", ("normal", "abnormal"), "normal"),
        ("Was oral or IV contrast used?", "Both", (), "Both"),
        ("Is this a T1 weighted, T2 weighted, or FLAIR image?", "FLAIR", (), "FLAIR"),
        ("Is a pneumonia or pleural effusion seen?", "pleural effusion", (), "pleural effusion"),
        ("Is this a contrast CT or a non-contrast CT?", "Non-contrast CT", (), "Non-contrast CT"),
        ("Does this CT have contrast or no contrast?", "contrast", (), "contrast"),
        ("Is this an infectious process?", "Maybe", (), "Maybe"),
        ("Is it at the left or right or middle?", "left", (), "left"),
    ],
)
def test_closed_answers_come_from_the_question_alone(question: str, answer: str, choices: tuple[str, ...], kept: str) -> None:
    assert closed_answer(question, answer, marked_closed=True) == (choices, kept)


def test_open_questions_are_not_mined() -> None:
    assert closed_answer("left or right?", "left", marked_closed=False) == ((), "left")
    assert closed_answer("anything?", "Yes", marked_closed=False) == (("yes", "no"), "yes")


OFFICIAL: dict[str, Any] = {
    "qid": 1,
    "phrase_type": "freeform",
    "qid_linked_id": "03f451ca",
    "image_case_url": "https://medpix.nlm.nih.gov/case?id=48e1dd0e",
    "image_name": "synpic54610.jpg",
    "image_organ": "HEAD",
    "evaluation": "not evaluated",
    "question": "Are regions of  the brain infarcted?",
    "question_type": "PRES",
    "answer": "Yes",
    "answer_type": "CLOSED ",
}


def official(tmp_path: Path, *changes: dict[str, Any]) -> str:
    image_at(tmp_path / "VQA_RAD Image Folder" / "synpic54610.jpg")
    rows = [OFFICIAL | {"qid": n} | change for n, change in enumerate(changes, start=1)]
    return str(json_list(tmp_path / "VQA_RAD Dataset Public.json", rows))


def test_vqa_rad_official(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    count = {"phrase_type": "test_para", "answer": 2, "answer_type": "OPEN"}
    odd = {"question": "Which side, exactly?", "answer": "Maybe", "answer_type": "CLOSED"}
    table = VqaRad(official(tmp_path, {}, count, odd))
    assert isinstance(table, Table)
    with caplog.at_level(logging.WARNING):
        first, second, third = table.queries()
    assert (first.id, first.question) == ("vqarad-1", "Are regions of the brain infarcted?")
    assert (first.answer, first.choices, first.split) == ("yes", ("yes", "no"), Split.TRAIN)
    assert first.patient_id == "vqa_rad:https://medpix.nlm.nih.gov/case?id=48e1dd0e"
    assert (second.answer, second.answer_type, second.split) == ("2", AnswerType.OPEN, Split.TEST)
    assert (third.answer_type, third.answer) == (AnswerType.OPEN, "Maybe")
    assert "1 questions are marked closed" in caplog.text
    assert "vqarad-3" in caplog.text
    documents = table.documents()
    assert [d.id for d in documents] == ["vqarad-1", "vqarad-3"]
    assert shares_identity(first, documents[1]) == "patient_id"


def test_vqa_rad_sets_images_apart_for_validation(tmp_path: Path) -> None:
    for n in range(40):
        image_at(tmp_path / "VQA_RAD Image Folder" / f"{n}.jpg")
    path = official(tmp_path, *({"image_name": f"{n // 2}.jpg"} for n in range(80)))
    queries = VqaRad(path, val_share=0.3).queries()
    split_of_image: dict[str, set[str]] = {}
    for query in queries:
        split_of_image.setdefault(str(query.image), set()).add(query.split)
    assert all(len(splits) == 1 for splits in split_of_image.values())
    assert 4 <= sum(splits == {"val"} for splits in split_of_image.values()) <= 20
    assert queries == VqaRad(path, val_share=0.3).queries()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer_type": "CLOSE"}, "'answer_type' is 'close'"),
        ({"phrase_type": "final"}, "'phrase_type' is 'final'"),
        ({"image_name": "gone.jpg"}, "image 'gone.jpg' is not there"),
        ({"qid": 1}, "id 'vqarad-1' was already used"),
        ({"answer": " "}, "key 'answer' is empty"),
    ],
)
def test_vqa_rad_faults(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=rf"Public\.json:3: .*{said}"):
        VqaRad(official(tmp_path, {}, change)).queries()


def test_vqa_rad_settings_that_would_be_ignored(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split_key 'official_split' is only for JSONL"):
        VqaRad(official(tmp_path, {}), split_key="official_split").queries()
    image_at(tmp_path / "a.jpg")
    row = {"id": "1", "image": "a.jpg", "question": "a?", "answer": "b", "answer_type": "open", "split": "val", "case": "c"}
    path = str(jsonl(tmp_path / "vqa.jsonl", [row | {"official_split": "test"}]))
    assert VqaRad(path, image_root=str(tmp_path), split_key="official_split").queries()[0].split is Split.TEST
    with pytest.raises(ValueError, match="val_share is only for the official JSON"):
        VqaRad(path, image_root=str(tmp_path), val_share=0.1).queries()


SLAKE: dict[str, Any] = {
    "img_id": 1,
    "img_name": "xmlab1/source.jpg",
    "question": "What modality is used?",
    "answer": "MRI",
    "q_lang": "en",
    "location": "Abdomen",
    "modality": "MRI",
    "answer_type": "OPEN",
    "base_type": "vqa",
    "triple": ["vhead", "_", "_"],
}


def slake(tmp_path: Path, *train: dict[str, Any]) -> Slake:
    image_at(tmp_path / "imgs" / "xmlab1" / "source.jpg")
    json_list(tmp_path / "train.json", [SLAKE | {"qid": n} | change for n, change in enumerate(train)])
    json_list(tmp_path / "validate.json", [SLAKE | {"qid": 100}])
    json_list(tmp_path / "test.json", [SLAKE | {"qid": 200, "answer": "Yes", "answer_type": "CLOSED"}])
    return Slake(str(tmp_path))


def test_slake(tmp_path: Path) -> None:
    table = slake(tmp_path, {}, {"q_lang": "zh", "question": "什么模态?"})
    assert isinstance(table, Table)
    assert [(q.id, q.split) for q in table.queries()] == [("slake-0", "train"), ("slake-100", "val"), ("slake-200", "test")]
    assert table.queries()[2].choices == ("yes", "no")
    assert table.queries()[0].modality == "MRI"
    (document,) = table.documents()
    assert shares_identity(table.queries()[2], document) == "study_id"
    assert len(Slake(str(tmp_path), language=None).queries()) == 4
    assert len(Slake(str(tmp_path), language="zh").queries()) == 1


def test_slake_faults(tmp_path: Path) -> None:
    table = slake(tmp_path, {}, {"q_lang": "fr"}, {"img_name": "xmlab9/source.jpg"})
    with pytest.raises(ValueError, match=r"(?s)2 bad rows.*train\.json:3: key 'q_lang' is 'fr'.*train\.json:4: image 'xmlab9"):
        table.queries()
    with pytest.raises(ValueError, match="language must be"):
        Slake(str(tmp_path), language="english")


def path_vqa(tmp_path: Path) -> Path:
    for split in Split:
        image_at(tmp_path / "images" / split / f"{split}_0001.jpg")
        jsonl(tmp_path / "qas" / f"{split}_qa.jsonl", [{"image": f"{split}_0001", "question": "is it benign?", "answer": "no"}])
    return tmp_path


def test_path_vqa(tmp_path: Path) -> None:
    table = PathVqa(str(path_vqa(tmp_path)))
    assert isinstance(table, Table)
    assert [q.id for q in table.queries()] == ["pathvqa-train-1", "pathvqa-val-1", "pathvqa-test-1"]
    assert table.queries()[0].choices == ("yes", "no")
    assert str(table.documents()[0].image) == str(tmp_path / "images" / "train" / "train_0001.jpg")
    assert len(table.roots()) == 3
    pq.write_table(pa.table({"image": ["val_0001"], "question": ["what?"], "answer": ["fat"]}), tmp_path / "x.parquet")
    assert [q.split for q in PathVqa(str(tmp_path), files={"val": "x.parquet"}).queries()] == [Split.VAL]


def test_path_vqa_faults(tmp_path: Path) -> None:
    root = path_vqa(tmp_path)
    jsonl(root / "qas" / "val_qa.jsonl", [{"image": {"bytes": "x", "path": None}, "question": "a?", "answer": "b"}])
    with pytest.raises(ValueError, match=r"val_qa\.jsonl:1: key 'image' holds the image itself; extract"):
        PathVqa(str(root)).queries()
    (root / "qas" / "val_qa.jsonl").unlink()
    (root / "qas" / "val_qa.pkl").write_bytes(pickle.dumps([]))
    with pytest.raises(ValueError, match=r"val_qa\.pkl: a pickle runs code.*val_qa\.json "):
        PathVqa(str(root)).queries()
    (root / "qas" / "val_qa.pkl").unlink()
    with pytest.raises(ValueError, match="no file for the val split"):
        PathVqa(str(root)).queries()
    with pytest.raises(ValueError, match="unknown split 'valid'"):
        PathVqa(str(root), files={"valid": "a.jsonl"})


def chat(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def test_messages(tmp_path: Path) -> None:
    image_at(tmp_path / "a.png")
    system = chat("<image>\nIs it normal?", "Yes.", images=["a.png"], patient_id=4)
    system["messages"].insert(0, {"role": "system", "content": "You are helpful"})
    said = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "Lung"}]
    share = {"id": 7, "image": "a.png", "conversations": said}
    train = jsonl(tmp_path / "train.jsonl", [system, share, chat("Plain?", "Text")])
    test = json_list(tmp_path / "test.json", [chat("<image>What?", "Fat", images=[{"path": "a.png", "bytes": None}])])
    table = MessagesRows(str(tmp_path), train=str(train), test=str(test))
    assert isinstance(table, Table)
    first, second, third, fourth = table.queries()
    assert (first.question, first.answer, first.choices) == ("Is it normal?", "yes", ("yes", "no"))
    assert (first.patient_id, second.id, third.image) == ("messages:4", "messages-7", None)
    assert (fourth.id, fourth.split) == ("messages-test-2", Split.TEST)
    assert [d.id for d in table.documents()] == ["messages-train-1", "messages-7", "messages-train-3"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (chat("<image>a?", "b"), "1 <image> marks, but 0 images"),
        (chat("<image><image>a?", "b", images=["a.png"]), "2 <image> marks, but 1 images"),
        (chat("a?", "b", images=["a.png", "a.png"]), "2 images; a question here has one"),
        (chat("a?", "b", videos=["v.mp4"]), "key 'videos' is set"),
        (chat("a?", "<image>"), "the assistant's reply holds <image>"),
        (chat("<image>", "b", images=["a.png"]), "a message is empty"),
        (chat("a?", "b", images=[{"bytes": "x"}]), "the image has no path"),
        ({"messages": [{"role": "user", "content": "a"}]}, "roles must alternate"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "unknown role 'tool'"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "the content is a list of parts"),
        ({"text": "a"}, "key 'messages'.* is missing"),
        ({"messages": chat("a", "b")["messages"] * 2}, "2 turns; turns: split"),
    ],
)
def test_messages_faults(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    image_at(tmp_path / "a.png")
    path = jsonl(tmp_path / "t.jsonl", [chat("a?", "b"), row])
    with pytest.raises(ValueError, match=rf"t\.jsonl:2: {said}"):
        MessagesRows(str(tmp_path), train=str(path)).queries()


def test_messages_turns_may_be_split(tmp_path: Path) -> None:
    path = str(jsonl(tmp_path / "t.jsonl", [{"messages": chat("a?", "b")["messages"] * 2}]))
    queries = MessagesRows(str(tmp_path), val=path, turns="split").queries()
    assert [query.id for query in queries] == ["messages-val-1-0", "messages-val-1-1"]
    with pytest.raises(ValueError, match="give at least one"):
        MessagesRows(str(tmp_path))
    with pytest.raises(ValueError, match="one file is named for two splits"):
        MessagesRows(str(tmp_path), train=path, val=path)


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    data = json.dumps(chat("a?", "b")).encode()
    (tmp_path / "t.jsonl").write_bytes(b"\xef\xbb\xbf" + data + b"\r\n" + data + b"\r\n")
    assert len(MessagesRows(str(tmp_path), train=str(tmp_path / "t.jsonl")).queries()) == 2
