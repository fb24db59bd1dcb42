"""A vision-language model as teacher: what its prompts hold and do not hold, and that half a reply is none."""

from dataclasses import replace

import pytest
from reader_world import picture, tiny

from medrag_lightning.batches import Role
from medrag_lightning.interfaces import Teacher, TraceTask
from medrag_lightning.models.teacher_prompts import teacher_prompt
from medrag_lightning.models.vlm_teacher import VlmTeacher
from medrag_lightning.records import AnswerType, Document, ImageRef, Kept, Query

CANARY = "canarygold"
QUERY = Query("q-id", "what is it?", ImageRef("q.png"), patient_id="p-id", study_id="s-id")
CLOSED = replace(QUERY, choices=("cyst", "mass"), answer_type=AnswerType.CLOSED)
FOUND = (
    Document(f"{CANARY}-id", "a cyst is round", ImageRef("d.png"), patient_id="p2-id"),
    Document("d2", "nothing of it"),
    Document("d3", "word " * 300),
)
KEPT = (Kept(3, "word word"), Kept(1))


def task(step, query=QUERY, gold=None, attempt=0):
    kept = None if step == "rearrange" else KEPT
    initial = "mass" if step in ("rethink", "final") else None
    rethink = "1. no mass" if step == "final" else None
    return TraceTask(step, query, picture(0), FOUND, (picture(1), None, None), kept, initial, rethink, gold, attempt)


def text(prompt):
    return "".join(segment.text for segment in prompt.segments)


def teacher(**settings):
    return VlmTeacher(tiny("qwen2_vl"), **{"max_new_tokens": 12, "device": "cpu", **settings})


def test_the_first_step_shows_all_evidence_under_its_numbers():
    prompt = teacher_prompt(task("rearrange", CLOSED), max_document_chars=100)
    told = text(prompt)
    for part in (
        "what is it?",
        "cyst / mass",
        "evidence [1] a cyst is round",
        "evidence [2] nothing",
        "word for word",
        "3 numbered",
    ):
        assert part in told
    assert "word " * 25 not in told
    assert "..." not in told.split("Choose")[0], "what marks a cut would be copied"
    assert len(prompt.images) == 2
    roles = [(one.role, one.candidate) for one in prompt.segments if one.image is not None]
    assert roles == [(Role.QUERY_IMAGE, None), (Role.EVIDENCE_IMAGE, 0)]


def test_later_steps_show_what_was_kept_under_the_same_numbers():
    for step in ("initial", "rethink", "final"):
        prompt = teacher_prompt(task(step), max_document_chars=100)
        told = text(prompt)
        assert "evidence [3] word word\n" in told
        assert told.index("evidence [3]") < told.index("evidence [1]")
        assert "[2]" not in told
        assert "nothing of it" not in told
        assert len(prompt.images) == 2
        assert ("first answer: mass" in told) == (step != "initial")
        assert ("review:\n1. no mass" in told) == (step == "final")
    assert "one of the possible answers" in text(teacher_prompt(task("final", CLOSED), 100))
    assert "earlier reply" in text(teacher_prompt(task("final", attempt=1), 100))


def test_no_prompt_holds_gold_or_ids_unless_it_is_told():
    known = {"answer": CANARY, "relevant_ids": (CANARY,), "poison_ids": (CANARY,), "need": CANARY}
    for step in ("rearrange", "initial", "rethink", "final"):
        told = text(teacher_prompt(task(step, replace(QUERY, **known)), 100))
        assert CANARY not in told
        assert "-id" not in told
    told = text(teacher_prompt(task("final", gold=CANARY), 100))
    assert f"right answer: {CANARY}" in told
    assert "right answer:" not in text(teacher_prompt(task("final"), 100))


def test_whatever_a_model_says_is_a_text_or_a_failed_call(monkeypatch):
    mine = teacher(max_new_tokens=40)
    assert isinstance(mine, Teacher)
    said = mine.write([task("rearrange"), task("final", CLOSED)])
    assert len(said) == 2
    assert all(one is None or one.strip() for one in said)
    assert mine.write([]) == []
    told = [("whole", True), ("cut o", False), (" \n", True)]
    monkeypatch.setattr(mine.model, "say_and_tell", lambda *_: told)
    assert mine.write([task("initial")] * 3) == ["whole", None, None]


def test_whether_a_model_came_to_its_end_is_told(monkeypatch):
    import torch

    mine = teacher(max_new_tokens=3)
    model, processor = mine.model.load(["words"])
    end = processor.end_id

    def generate(input_ids, **_):
        new_PT = torch.tensor([[5, end, processor.pad_id], [5, 5, 5]])
        return torch.cat([input_ids, new_PT], dim=1)

    monkeypatch.setattr(model, "generate", generate)
    prompts = [teacher_prompt(task("initial"), 100)] * 2
    assert [ended for _, ended in mine.model.say_and_tell(prompts, 0.0, ["a", "b"], ["words"])] == [True, False]


def test_the_fingerprint_holds_settings_and_loads_nothing():
    every = [
        {},
        {"temperature": 0.0},
        {"seed": 1},
        {"max_document_chars": 99},
        {"max_new_tokens": 13},
        {"retry_temperature": 1.0},
    ]
    mine = [teacher(**settings) for settings in every]
    assert len({one.fingerprint() for one in mine}) == len(every)
    assert not any(one.model.is_loaded for one in mine)


@pytest.mark.parametrize(
    "settings", [{"max_new_tokens": 0}, {"max_document_chars": 3}, {"temperature": -1.0}, {"retry_temperature": 0.0}]
)
def test_settings_that_cannot_be_meant_are_refused(settings):
    with pytest.raises(ValueError, match="VlmTeacher needs"):
        teacher(**settings)
