"""A vision-language model as expert: its prompts hold what the rules say, and whatever it says is survived."""

import json
from dataclasses import replace

import pytest
from reader_folders import FOLDERS
from reader_world import picture, tiny

from medrag_lightning.interfaces import Expert, ExploreTask, JudgeTask
from medrag_lightning.models.backbones import Pretrained
from medrag_lightning.models.expert_prompts import explore_prompt, judge_prompt
from medrag_lightning.models.vlm_expert import VlmExpert
from medrag_lightning.records import AnswerType, Document, ImageRef, Query, parse_searches

CORPORA = {"wiki": "an encyclopaedia", "graph": "terms; each query is `term , relation`"}
PLAIN = Query("q", "what is it?", ImageRef("q.png"))
CLOSED = replace(PLAIN, id="r", choices=("cyst", "mass"), answer_type=AnswerType.CLOSED)
FOUND = (Document("d1", "a cyst is round"), Document("d2", "word " * 900))


def explore_task(query=PLAIN, image=None, attempt=0):
    return ExploreTask(query, image, CORPORA, 3, attempt)


def judge_task(query=PLAIN, image=None):
    return JudgeTask(replace(query, answer="cyst"), image, "wiki", "round thing", FOUND)


def text(prompt):
    return "".join(segment.text for segment in prompt.segments)


def expert(**settings):
    return VlmExpert(tiny("qwen2_vl"), **{"max_new_tokens": 12, "device": "cpu", **settings})


def test_the_prompt_to_explore_holds_corpora_and_rules():
    prompt = explore_prompt(explore_task(CLOSED, picture(0)))
    told = text(prompt)
    assert len(prompt.images) == 1
    for part in (
        "what is it?",
        "cyst / mass",
        "- wiki: an encyclopaedia",
        "term , relation",
        "exactly 3 queries",
        "Do not answer",
    ):
        assert part in told
    form = told.splitlines()[-2:]
    assert form == ["<wiki>query 1; query 2; query 3</wiki>", "<graph>query 1; query 2; query 3</graph>"]
    written = parse_searches("\n".join(form), list(CORPORA), 3)
    assert written.faults == ()
    assert "earlier reply" not in told
    assert "earlier reply" in text(explore_prompt(explore_task(CLOSED, attempt=1)))
    assert explore_prompt(explore_task()).images == []
    assert "medical image" not in text(explore_prompt(explore_task()))


def test_the_prompt_to_judge_asks_for_support_not_for_truth():
    told = text(judge_prompt(judge_task(CLOSED, picture(0)), max_document_chars=100))
    for part in (
        "right answer: cyst",
        "document 1: a cyst is round",
        "support",
        "do not judge whether it is right",
        "yes or no",
    ):
        assert part in told
    assert "document 2: word word" in told
    assert "word " * 25 not in told


def test_whatever_a_model_says_is_a_text():
    mine = expert()
    assert isinstance(mine, Expert)
    tasks = [explore_task(PLAIN, picture(0)), explore_task(CLOSED, None), explore_task(CLOSED, picture(1, (60, 30)))]
    said = mine.explore(tasks)
    assert len(said) == 3
    assert all(isinstance(one, str) for one in said)
    for one in said:
        parse_searches(one, list(CORPORA), 3)
    assert len(mine.judge([judge_task(PLAIN, picture(2)), judge_task(CLOSED)])) == 2
    assert mine.explore([]) == []


def test_first_replies_are_the_likeliest_words_and_later_ones_are_drawn():
    mine = expert(max_new_tokens=24)
    first, again = [explore_task()], [explore_task(attempt=1)]
    assert mine.explore(first) == mine.explore(first)
    drawn = mine.explore(again)
    assert drawn == mine.explore(again)
    assert drawn != expert(max_new_tokens=24, seed=1).explore(again)
    assert drawn != mine.explore([explore_task(attempt=2)])
    assert expert(max_new_tokens=24).explore(first) == expert(max_new_tokens=24, seed=1).explore(first)


def test_other_draws_of_a_run_are_not_disturbed():
    import torch

    torch.manual_seed(3)
    before = torch.get_rng_state()
    expert().explore([explore_task(attempt=1)])
    assert torch.equal(before, torch.get_rng_state())


def test_a_folder_is_known_by_its_files(tmp_path, monkeypatch):
    FOLDERS["qwen2_vl"](tmp_path / "a")
    mine = VlmExpert(Pretrained(str(tmp_path / "a")), max_new_tokens=3)
    known = mine.fingerprint()
    assert not mine.model.is_loaded, "nothing is loaded for a fingerprint"
    (tmp_path / "a").rename(tmp_path / "b")
    assert VlmExpert(Pretrained(str(tmp_path / "b")), max_new_tokens=3).fingerprint() == known
    assert VlmExpert(Pretrained(str(tmp_path / "b")), max_new_tokens=4).fingerprint() != known
    mine = VlmExpert(Pretrained(str(tmp_path / "b")), max_new_tokens=3, device="cpu")
    assert len(mine.explore([explore_task(PLAIN, picture(0))])) == 1
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    (tmp_path / "b" / "config.json").write_text(json.dumps({**config, "x": 1}))
    assert VlmExpert(Pretrained(str(tmp_path / "b")), max_new_tokens=3).fingerprint() != known


def test_a_model_that_is_not_there_is_told():
    with pytest.raises(ValueError, match="cannot be loaded"):
        VlmExpert(Pretrained("nobody/has-this")).fingerprint()


@pytest.mark.parametrize(
    "settings", [{"max_new_tokens": 0}, {"max_document_chars": 3}, {"temperature": -1.0}, {"retry_temperature": 0.0}]
)
def test_settings_that_cannot_be_meant_are_refused(settings):
    with pytest.raises(ValueError, match="VlmExpert needs"):
        expert(**settings)


def test_the_model_is_given_the_pictures(monkeypatch):
    mine = expert(max_new_tokens=1)
    model, _ = mine.model.load(["words"])
    given, generate = [], model.generate

    def watched(**inputs):
        given.append(inputs)
        return generate(**inputs)

    monkeypatch.setattr(model, "generate", watched)
    mine.explore([explore_task(PLAIN, picture(0)), explore_task(PLAIN, None), explore_task(PLAIN, picture(1))])
    mine.judge([judge_task(PLAIN, None)])
    assert len(given[0]["image_grid_thw"]) == 2
    assert given[0]["input_ids"].shape[0] == 3
    assert "pixel_values" not in given[1]
