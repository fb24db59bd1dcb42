"""PubMedQA: every question with the abstract that answers it, dealt to splits by its id alone."""

import json

import pytest

from medrag_lightning.data.tables import PubMedQa
from medrag_lightning.records import AnswerType, Split

ROWS = [
    {
        "id": f"q{n}",
        "question": f"does {n} help?",
        "gold_doc": f"d{n}",
        "answer": ("Yes", "no", "maybe")[n % 3],
        "split": "train",
    }
    for n in range(300)
]


def table(tmp_path, rows=ROWS, **settings):
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PubMedQa(str(path), **settings)


def test_questions_name_the_documents_that_answer_them(tmp_path):
    made = table(tmp_path).queries()
    assert len(made) == 300
    assert (made[7].answer, made[7].choices, made[7].answer_type) == ("no", ("yes", "no", "maybe"), AnswerType.CLOSED)
    assert made[7].relevant_ids == ("d7",)
    assert table(tmp_path).documents() == table(tmp_path).roots() == []


def test_splits_depend_on_the_id_alone_and_are_about_as_large_as_asked(tmp_path):
    split_of = {query.id: query.split for query in table(tmp_path).queries()}
    counts = [list(split_of.values()).count(split) for split in (Split.TRAIN, Split.VAL, Split.TEST)]
    assert 150 < counts[0] < 210
    assert all(40 < count < 85 for count in counts[1:])
    fewer = {query.id: query.split for query in table(tmp_path, ROWS[::-2]).queries()}
    assert all(split_of[name] is split for name, split in fewer.items())
    assert {query.split for query in table(tmp_path, val_share=None, test_share=None).queries()} == {Split.TRAIN}


def test_what_is_wrong_is_told_with_its_line(tmp_path):
    bad = [ROWS[0], {**ROWS[1], "answer": "perhaps"}, {k: v for k, v in ROWS[2].items() if k != "gold_doc"}]
    with pytest.raises(
        ValueError, match=r"asked\.jsonl:2: key 'answer' is 'perhaps'[\s\S]*asked\.jsonl:3: key 'gold_doc' is missing"
    ):
        table(tmp_path, bad).queries()
    for wrong in ({"val_share": 0.6, "test_share": 0.4}, {"val_share": -0.1}):
        with pytest.raises(ValueError, match="below 1 together"):
            table(tmp_path, **wrong)
    with pytest.raises(ValueError, match="or both null"):
        table(tmp_path, val_share=None)
