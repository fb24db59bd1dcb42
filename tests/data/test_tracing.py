"""Traces by a teacher: what it is shown, what is refused, what is kept after an interruption (M06, M09, M10; traps 7 and 8)."""

import json
from dataclasses import replace

import pytest
from tracing_world import SAID, Found, Scripted, ground, questions, sound

from medrag_lightning.data.tracing.building import trace_or_read
from medrag_lightning.data.tracing.checking import read_reply
from medrag_lightning.data.tracing.plan import TracePlan
from medrag_lightning.records import AnswerType, Document, ImageRef, Kept, Split, Trace
from medrag_lightning.trace_files import read_traces

CANARY = "CANARYGOLD"


def plan(folder, teacher, **settings):
    return TracePlan(**{"teacher": teacher, "folder": str(folder), "batch_size": 2, **settings})


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_four_steps_make_a_row(tmp_path):
    teacher = Scripted()
    made = trace_or_read(ground(questions(3), questions(2, Split.VAL)), plan(tmp_path, teacher))
    table = read_traces(tmp_path)
    assert [(row.query_id, row.split) for row in table.rows] == [
        *((f"train{n}", Split.TRAIN) for n in range(3)), ("val0", Split.VAL), ("val1", Split.VAL)
    ]  # fmt: skip
    row = table.rows[0]
    assert row.trace == Trace((Kept(2, "tells of train0"), Kept(1)), "mass", SAID["rethink"], "cyst")
    assert row.evidence_ids == ("train0-report", "train0-text", "train0-x")
    assert row.image_shown == (True, False, False)
    assert table.manifest["gold_aware"] is False
    assert table.identity["gold"] == "blind"
    assert made.asked == 20 == len(teacher.tasks)
    told = made.statistics["splits"]["train"]
    assert told["kept"]["open"]["traces_by_kept"] == {"2": 3}
    assert (told["answers"]["initial"]["value"], told["answers"]["final"]["value"]) == (0.0, 1.0)
    assert (told["answers"]["right_to_wrong"], told["answers"]["wrong_to_right"]) == (0, 3)
    assert json.loads((tmp_path / "statistics.json").read_text()) == made.statistics
    assert (tmp_path / "samples.html").read_text().count("<h2>") == 5


def test_later_steps_see_what_was_written_and_numbers_stay(tmp_path):
    teacher = Scripted()
    trace_or_read(ground(questions(1)), plan(tmp_path, teacher, splits=("train",)))
    assert [task.step for task in teacher.tasks] == ["rearrange", "initial", "rethink", "final"]
    for task in teacher.tasks:
        assert [document.id for document in task.documents] == ["train0-report", "train0-text", "train0-x"]
        assert [image is not None for image in task.images] == [True, False, False]
        assert task.image is not None
    kept = (Kept(2, "tells of train0"), Kept(1))
    seen = [(task.kept, task.initial, task.rethink, task.gold) for task in teacher.tasks]
    assert seen == [
        (None, None, None, None),
        (kept, None, None, None),
        (kept, "mass", None, None),
        (kept, "mass", SAID["rethink"], None),
    ]


def test_a_gold_blind_teacher_is_shown_no_gold(tmp_path):
    """Two worlds that differ in nothing but what is known of the answers give the same tasks, one by one."""
    known = {"answer": CANARY, "relevant_ids": (f"{CANARY}-1",), "poison_ids": (f"{CANARY}-2",), "need": CANARY}
    told = [replace(query, searches=(("wiki", CANARY),), **known) for query in questions(3)]
    other = [replace(query, answer="other", relevant_ids=(), poison_ids=(), need=None) for query in questions(3)]
    teachers = [Scripted(), Scripted()]
    for place, (teacher, asked) in enumerate(zip(teachers, (told, other), strict=True)):
        trace_or_read(ground(asked), plan(tmp_path / str(place), teacher, splits=("train",)))
    shown = [[replace(task, image=None, images=()) for task in teacher.tasks] for teacher in teachers]
    assert shown[0] == shown[1]
    assert CANARY not in repr(shown)
    assert CANARY.encode() not in (tmp_path / "0" / "traces.arrow").read_bytes()


def test_a_gold_aware_teacher_is_told_in_the_last_step_and_every_row_says_so(tmp_path):
    teacher = Scripted(lambda task: task.gold if task.step == "final" else sound(task))
    asked = [*(replace(query, answer=CANARY) for query in questions(2)), replace(questions(3)[2], answer=None)]
    made = trace_or_read(ground(asked), plan(tmp_path, teacher, gold="aware", splits=("train",)))
    assert {task.step for task in teacher.tasks if CANARY in repr(task)} == {"final"}
    table = read_traces(tmp_path)
    assert all(row.gold_aware for row in table.rows)
    assert table.manifest["gold_aware"] is True
    assert [row.trace and row.trace.final for row in table.rows] == [CANARY, CANARY, None]
    assert made.statistics["splits"]["train"]["excluded"] == {"no gold answer": 1}
    with pytest.raises(ValueError, match="traces of another gold, "):
        trace_or_read(ground(asked), plan(tmp_path, teacher, splits=("train",), most_attempts=0))


def test_what_cannot_be_used_is_asked_again_then_left_out_and_counted(tmp_path):
    def says(task):
        if task.query.id == "train1" and task.step == "rearrange":
            return "[2] tells of another"  # never right
        if task.query.id == "train2" and task.step == "rearrange" and task.attempt < 2:
            return "[7] x\n[1]"
        if task.query.id == "train3" and task.step == "rethink":
            return "<final>cyst</final>"
        return sound(task)

    made = trace_or_read(ground(questions(4)), plan(tmp_path, Scripted(says), splits=("train",), most_attempts=2))
    rows = read_traces(tmp_path).rows
    assert [row.reason for row in rows] == ["", "no reply could be used in rearrange", "", "no reply could be used in rethink"]
    assert rows[2].faults == ("there is no evidence 7: 3 were retrieved", "no text is kept") * 2
    told = made.statistics["steps"]
    assert (told["rearrange"]["replies"], told["rearrange"]["asked_again"]) == (8, 4)
    assert (told["rearrange"]["unusable"], told["rearrange"]["excluded"], told["rethink"]["excluded"]) == (5, 1, 1)
    assert told["rearrange"]["faults"]["there is no evidence N: N were retrieved"] == 2
    assert made.statistics["splits"]["train"]["traces"] == 2


def test_a_failed_call_is_never_learned_from_and_is_made_again(tmp_path):
    down = {"train0": "initial", "train1": "final"}
    teacher = Scripted(lambda task: None if down.get(task.query.id) == task.step else sound(task))
    world = ground(questions(3))
    made = trace_or_read(world, plan(tmp_path, teacher, splits=("train",), most_attempts=1))
    rows = read_traces(tmp_path).rows
    assert [row.reason for row in rows] == ["the call failed in initial", "the call failed in final", ""]
    assert rows[0].trace is rows[1].trace is None
    told = made.statistics["steps"]
    assert (told["initial"]["failed"], told["initial"]["excluded"], told["final"]["failed"]) == (2, 1, 2)
    for name in ("traces.arrow", "manifest.json"):
        (tmp_path / name).unlink()
    up = Scripted()
    trace_or_read(world, plan(tmp_path, up, splits=("train",), most_attempts=1))
    assert [(task.query.id, task.step) for task in up.tasks] == [
        ("train0", "initial"), ("train0", "rethink"), ("train0", "final"), ("train1", "final")
    ]  # fmt: skip
    assert all(row.trace for row in read_traces(tmp_path).rows)


def test_an_image_that_cannot_be_opened_leaves_its_question_out(tmp_path, caplog):
    asked = questions(3)
    asked[1] = replace(asked[1], image=ImageRef("broken.png"))
    asked[2] = replace(asked[2], id="broken2")
    teacher = Scripted()
    made = trace_or_read(ground(asked), plan(tmp_path, teacher, splits=("train",)))
    rows = read_traces(tmp_path).rows
    assert [row.faults for row in rows[1:]] == [
        ("the question: an image cannot be opened",), ("evidence 1: an image cannot be opened",)
    ]  # fmt: skip
    assert made.statistics["splits"]["train"]["excluded"] == {"an image cannot be opened": 2}
    assert {task.query.id for task in teacher.tasks} == {"train0"}
    assert "broken" in caplog.text
    assert b".png" not in (tmp_path / "traces.arrow").read_bytes()


def test_without_evidence_there_is_nothing_to_rearrange(tmp_path):
    teacher = Scripted()
    trace_or_read(ground(questions(2), source=Found(none=("train0",))), plan(tmp_path, teacher, splits=("train",)))
    assert read_traces(tmp_path).rows[0].trace == Trace((), "mass", SAID["rethink"], "cyst")
    assert [task.query.id for task in teacher.tasks if task.step == "rearrange"] == ["train1"]


def test_the_second_run_asks_nobody(tmp_path):
    world = ground(questions(5))
    made = trace_or_read(world, plan(tmp_path, Scripted(), splits=("train",)))
    before, idle = files(tmp_path), Scripted()
    again = trace_or_read(world, plan(tmp_path, idle, splits=("train",)))
    assert (idle.calls, again.asked, again.statistics) == ([], 0, made.statistics)
    assert files(tmp_path) == before


@pytest.mark.parametrize("calls", [0, 1, 3, 4, 8, 11])
def test_a_run_that_was_cut_off_goes_on_and_ends_alike(tmp_path, calls):
    def says(task):
        return "..." if task.step == "rearrange" and task.query.id == "train1" and not task.attempt else sound(task)

    whole, cut, rest = Scripted(says), Scripted(says, stop_after=calls), Scripted(says)
    world = ground(questions(5))
    trace_or_read(world, plan(tmp_path / "whole", whole, splits=("train",)))
    with pytest.raises(KeyboardInterrupt):
        trace_or_read(world, plan(tmp_path / "cut", cut, splits=("train",)))
    trace_or_read(world, plan(tmp_path / "cut", rest, splits=("train",)))
    assert sum(cut.calls[:calls]) + sum(rest.calls) == sum(whole.calls) == 21
    for name in ("traces.arrow", "manifest.json", "samples.html"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_another_teacher_or_source_is_refused(tmp_path):
    trace_or_read(ground(questions(2)), plan(tmp_path, Scripted(), splits=("train",)))
    before = files(tmp_path)
    with pytest.raises(ValueError, match="traces of another teacher"):
        trace_or_read(ground(questions(2)), plan(tmp_path, Scripted(name="other"), splits=("train",)))
    with pytest.raises(ValueError, match="traces of another source"):
        trace_or_read(ground(questions(2), source=Found(name="x")), plan(tmp_path, Scripted(), splits=("train",)))
    assert files(tmp_path) == before
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"replies of another teacher.*exploration\.traces\.folder"):
        trace_or_read(ground(questions(2)), plan(tmp_path, Scripted(name="other"), splits=("train",)))


def test_a_teacher_that_loses_a_task_is_told(tmp_path):
    teacher = Scripted()
    teacher.write = lambda tasks: ["x"]
    with pytest.raises(ValueError, match="the teacher gave 1 replies to 2 tasks"):
        trace_or_read(ground(questions(2)), plan(tmp_path, teacher, splits=("train",)))


def test_settings_are_checked():
    for settings, message in (
        ({"batch_size": 0}, "at least 1"),
        ({"splits": ()}, "at least one"),
        ({"most_attempts": -1}, "0"),
    ):
        with pytest.raises(ValueError, match=message):
            TracePlan(**settings)
    with pytest.raises(ValueError, match="teacher is not set"):
        trace_or_read(ground(questions(1)), TracePlan())
    with pytest.raises(ValueError, match="no questions in val"):
        trace_or_read(ground(questions(1)), TracePlan(Scripted(), splits=("val",)))


EVIDENCE = (Document("a", "one two three"), Document("b", "four"), Document("c", image=ImageRef("c.png")))
IMAGES = (False, False, True)
CLOSED = replace(questions(1)[0], choices=("cyst", "mass"), answer_type=AnswerType.CLOSED)


@pytest.mark.parametrize(
    ("step", "reply", "fault"),
    [
        ("rearrange", "[1] one two\n[3]", None),
        ("rearrange", "<rearrange>\n[3]\n[1] one ... three\n</rearrange>", None),
        ("rearrange", "[1] one three\n[3]", "the text kept of evidence 1 is not its own"),
        ("rearrange", "[1] one", "no image is kept"),
        ("rearrange", "[3]", "no text is kept"),
        ("rearrange", "[1] one\n[2]\n[3]", "evidence 2 is kept without its text, and has no image"),
        ("rearrange", "[1] one\n[1] two\n[3]", "<rearrange> keeps evidence 1 twice"),
        ("rearrange", "I keep [1]", "a line of <rearrange> does not begin"),
        ("initial", " cyst \n", None),
        ("initial", "<initial>The answer is: mass.</initial>", None),
        ("initial", "cyst or mass", "states none of the choices, or several"),
        ("final", "<think>", None),
        ("rethink", "   ", "<rethink> is blank"),
        ("rethink", "1. <final>cyst</final>", "a tag stands inside"),
    ],
)
def test_a_reply_is_used_or_refused(step, reply, fault):
    written, faults = read_reply(step, reply, CLOSED if step == "initial" else questions(1)[0], EVIDENCE, IMAGES)
    if fault is None:
        assert faults == []
        assert written
    else:
        assert written is None
        assert any(fault in one for one in faults), faults
