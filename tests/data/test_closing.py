"""Open questions made closed: the rules, what a language model made elsewhere, and the stored, audited conversion."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from medrag_lightning.data.closed_table import ClosedTable, audit
from medrag_lightning.data.closing import Closer, Closing, LanguageModelCloser, RuleCloser, write_requests
from medrag_lightning.interfaces import Table
from medrag_lightning.records import AnswerType, Document, Query, Split

PLANES = ["axial", "coronal", "sagittal", "oblique", "axial", "axial"]
LUNGS = ["left lung", "right lung", "upper lobe", "lower lobe", "left hilum"]


def question(number, text, answer, split=Split.TRAIN):
    return Query(f"q{number}", text, answer=answer, split=split, patient_id=f"p{number}")


TRAIN = [
    *(question(n, "What plane is the image in?", plane) for n, plane in enumerate(PLANES)),
    *(question(10 + n, "Where is the lesion?", place) for n, place in enumerate(LUNGS)),
    question(20, "Is there a mass?", "Yes."),
    question(21, "Is it a CT or MRI scan?", "MRI"),
    question(22, "Describe the finding.", "a large mass in the left upper lobe with cavitation"),
    question(23, "How many lesions are there?", "3"),
]
TEST = [
    question(30, "What plane is this?", "transverse", Split.TEST),
    question(31, "What plane is this?", "axial", Split.VAL),
    question(32, "What plane is this?", None, Split.VAL),
]


class Questions:
    def __init__(self, queries=(*TRAIN, *TEST)):
        self._queries = list(queries)

    def queries(self):
        return list(self._queries)

    def documents(self):
        return [Document("d", "a text")]

    def roots(self):
        return [Path("images")]


@pytest.fixture
def closer():
    made = RuleCloser(choices=3, frequent=4)
    made.learn(TRAIN)
    return made


def by_id(queries):
    return {query.id: query for query in queries}


def test_the_first_rule_that_fits_closes_a_question(closer):
    found = {query.id: closer.close(query) for query in (*TRAIN, *TEST)}
    assert (found["q20"].rule, found["q20"].query.choices, found["q20"].query.answer) == ("yes_no", ("yes", "no"), "yes")
    assert (found["q21"].rule, found["q21"].query.choices, found["q21"].query.answer) == ("alternatives", ("CT", "MRI"), "MRI")
    plane = found["q0"].query
    assert found["q0"].rule == "frequent_two_words"
    assert plane.answer == "axial"
    assert set(plane.choices) <= set(PLANES)
    assert len(plane.choices) == 3
    assert found["q22"] == Closing(None, "none", "the answer is too long")
    assert found["q23"] == Closing(None, "none", "too few training answers of its kind and shape")
    assert found["q32"].reason == "no gold answer"
    for one in found.values():
        assert one.query is None or one.query.answer in one.query.choices


def test_wrong_answers_have_the_shape_of_the_right_one_and_do_not_contain_it(closer):
    for query in TRAIN[6:11]:
        made = closer.close(query).query
        assert all(len(choice.split()) == 2 for choice in made.choices)
    answers = ["lung", "left lung", "heart", "liver", "12", "brain"]
    crowd = [question(n, "Where is it?", answer) for n, answer in enumerate(answers)]
    closer.learn(crowd)
    assert set(closer.close(crowd[0]).query.choices) <= {"lung", "heart", "liver", "brain"}


def test_answers_of_test_questions_are_offered_to_no_other_question(closer):
    made = closer.close(TEST[0]).query
    assert "transverse" in made.choices
    others = [closer.close(query).query for query in (*TRAIN, TEST[1])]
    assert not any("transverse" in query.choices for query in others if query is not None)
    with pytest.raises(ValueError, match="'q30' is of split test: only training"):
        closer.learn([*TRAIN, TEST[0]])


def test_a_conversion_does_not_depend_on_the_order_of_questions(closer):
    first = [closer.close(query) for query in TRAIN]
    again = RuleCloser(choices=3, frequent=4)
    again.learn(TRAIN)
    assert [again.close(query) for query in reversed(TRAIN)] == first[::-1]
    assert isinstance(again, Closer)


def test_a_table_stores_its_conversions_and_reads_them_back(tmp_path):
    store = str(tmp_path / "closed")
    table = ClosedTable(Questions(), RuleCloser(choices=3, frequent=4), store)
    assert isinstance(table, Table)
    made = by_id(table.queries())
    assert made["q30"] == TEST[0]  # test questions stay as they are
    assert made["q31"].answer_type is AnswerType.CLOSED
    assert made["q22"] == TRAIN[13]
    assert (table.documents(), table.roots()) == (Questions().documents(), Questions().roots())
    rows = [json.loads(line) for line in (tmp_path / "closed" / "closed.jsonl").read_text().splitlines()]
    assert {row["id"] for row in rows} == {query.id for query in (*TRAIN, *TEST[1:])}
    assert rows[0]["original"] == {"question": "What plane is the image in?", "answer": "axial"}
    assert "p0" not in (tmp_path / "closed" / "closed.jsonl").read_text()
    told = json.loads((tmp_path / "closed" / "audit.json").read_text())
    assert told["closed"] == told["gold_among_choices"] == sum(row["converted"] is not None for row in rows)
    assert told["yes_no"] == {"yes": 1, "no": 0}
    assert told["by_rule"]["yes_no"] == 1
    assert sum(told["refused"].values()) + told["closed"] == told["open_questions"] == len(rows)

    class Untouched(RuleCloser):
        def close(self, query):
            raise AssertionError("read, not made again")

    assert by_id(ClosedTable(Questions(), Untouched(choices=3, frequent=4), store).queries()) == made


def test_a_stored_conversion_of_something_else_is_refused(tmp_path):
    ClosedTable(Questions(), RuleCloser(choices=3), str(tmp_path)).queries()
    changed = Questions([*TRAIN[1:], replace(TRAIN[0], answer="coronal")])
    for table in (Questions(), changed):
        with pytest.raises(ValueError, match="conversions of other questions or by other rules"):
            ClosedTable(table, RuleCloser(choices=3 if table is changed else 2), str(tmp_path)).queries()
    with (tmp_path / "closed.jsonl").open("a") as stream:
        stream.write("\n")
    with pytest.raises(ValueError, match="not the file that"):
        ClosedTable(Questions(), RuleCloser(choices=3), str(tmp_path)).queries()


def closed(number, choices, answer):
    query = question(number, "Which?", answer)
    return query, Closing(replace(query, choices=tuple(choices), answer_type=AnswerType.CLOSED), "frequent_two_words")


def test_the_audit_warns_where_choices_give_the_answer_away():
    telling = [closed(n, ["a", "a very long one", "b", "c"], "a very long one") for n in range(30)]
    assert "the longest choice is the right one in 100% of questions, 25% by chance" in str(audit(telling, {"very long one"}))
    even = [closed(n, ["one", "seven", "three0"], ["one", "seven", "three0"][n % 3]) for n in range(30)]
    assert audit(even, {"one", "seven", "three0"})["warnings"] == []
    assert audit(even, {"one", "seven"})["gold_never_seen_in_training"] == 10
    yes = [(q, Closing(replace(c.query, choices=("yes", "no"), answer="yes"), "yes_no")) for q, c in even]
    assert "30 yes, 0 no" in str(audit(yes, set())["warnings"])


def test_conversions_of_a_language_model_are_read_checked_and_never_made(tmp_path):
    asked = tmp_path / "requests.jsonl"
    assert write_requests([*TRAIN[:2], TEST[2]], asked) == 2
    assert "What plane is the image in?" in json.loads(asked.read_text().splitlines()[0])["prompt"]
    replies = [
        {"id": "q0", "original": TRAIN[0].question, "question": "Is it axial?", "choices": ["yes", "no"], "answer": "yes"},
        {"id": "q1", "original": TRAIN[1].question, "choices": ["axial", "coronal"], "answer": "coronal"},
        {"id": "q2", "original": TRAIN[2].question, "choices": ["axial", "coronal"], "answer": "axial"},
        {"id": "q3", "original": TRAIN[3].question, "choices": None, "reason": "two planes are right"},
    ]
    path = tmp_path / "replies.jsonl"
    path.write_text("\n".join(map(json.dumps, replies)))
    model = LanguageModelCloser(str(path))
    model.learn([])
    made = model.close(TRAIN[0])
    assert (made.query.question, made.query.choices, made.rule) == ("Is it axial?", ("yes", "no"), "language_model")
    assert model.close(TRAIN[1]).query.gold_index == 1
    assert model.close(TRAIN[2]).reason == "the gold answer is not the one that is called right"
    assert model.close(TRAIN[3]).reason == "two planes are right"
    assert model.close(TRAIN[4]).reason == "no conversion in the file"
    with pytest.raises(ValueError, match=r"replies\.jsonl:1: query 'q0' was 'What plane is the image in\?' then"):
        model.close(replace(TRAIN[0], question="What plane?"))
    path.write_text(json.dumps(replies[1] | {"answer": "oblique"}) + "\n" + json.dumps({"id": "q5"}))
    with pytest.raises(ValueError, match=r"(?s)2 bad rows.*jsonl:1: 'answer' 'oblique'.*jsonl:2: 'original' is missing"):
        LanguageModelCloser(str(path)).learn([])


def test_settings_without_meaning_are_refused(tmp_path):
    with pytest.raises(ValueError, match="choices >= 2"):
        RuleCloser(choices=1)
    with pytest.raises(ValueError, match="splits is empty"):
        ClosedTable(Questions(), RuleCloser(), str(tmp_path), ())


def test_a_closed_table_is_built_from_yaml():
    rules = {"class_path": "medrag_lightning.data.closing.RuleCloser", "init_args": {"choices": 3}}
    inner = {"class_path": "medrag_lightning.data.tables.VqaRad", "init_args": {"path": "vqa.jsonl"}}
    settings = {"table": inner, "closer": rules, "store": "runs/closed/vqa_rad", "splits": ["train"]}
    entry = {"class_path": "medrag_lightning.data.closed_table.ClosedTable", "init_args": settings}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--tables", type=list[Table])
    (built,) = parser.instantiate(parser.parse_string(yaml.safe_dump({"tables": [entry]}))).tables
    assert isinstance(built, ClosedTable)
    assert isinstance(built.closer, RuleCloser)
    assert built.splits == {Split.TRAIN}
