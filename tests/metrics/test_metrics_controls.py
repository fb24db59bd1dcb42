"""The controls: what the wording and the class balance alone give away."""

import math
from dataclasses import replace

import pytest

from medrag_lightning.metrics import Majority, QuestionOnly, control_predictions, system_of
from medrag_lightning.records import AnswerType, Query, Split

YES_NO = ("yes", "no")
ORGANS = ("head", "chest", "abdomen")


def closed(number, question, answer, choices=YES_NO):
    return Query(f"q{number}", question, answer=answer, choices=choices, answer_type=AnswerType.CLOSED)


def opened(number, question, answer):
    return Query(f"o{number}", question, answer=answer)


def ask(query):
    return replace(query, id=f"test-{query.id}", split=Split.TEST, answer=None)


def test_majority_is_per_set_of_choices():
    train = [closed(i, "?", "no") for i in range(3)] + [closed(3, "?", "yes")]
    train += [closed(4 + i, "?", "chest", ORGANS) for i in range(5)]
    train += [opened(0, "?", "The Lung"), opened(1, "?", "lung"), opened(2, "?", "heart")]
    asked = [closed(20, "?", "yes", ("no", "yes")), closed(21, "?", "head", ORGANS), opened(9, "?", "kidney")]
    answers = [p.answer for p in Majority(train).predict(asked)]
    assert answers == ["no", "chest", "The Lung"]


def test_majority_falls_back():
    majority = Majority([closed(0, "?", "no"), closed(1, "?", "yes"), closed(2, "?", "no")])
    seen_elsewhere, never_seen = closed(3, "?", "no", ("maybe", "no")), closed(4, "?", "left", ("left", "right"))
    assert [p.answer for p in majority.predict([seen_elsewhere, never_seen])] == ["no", "left"]
    assert majority.predict([opened(0, "?", "x")])[0].answer is None
    assert Majority([]).notes


def test_probabilities_are_normalised_and_follow_frequency():
    train = [closed(i, f"question {i % 4} word{i % 3}", "no" if i % 4 else "yes") for i in range(40)]
    for system in (Majority(train), QuestionOnly(train)):
        for prediction in system.predict([closed(50, "question 1", "yes"), closed(51, "other", "no", ("no", "perhaps"))]):
            assert sum(map(math.exp, prediction.logp_nats)) == pytest.approx(1)
            assert prediction.choices[prediction.logp_nats.index(max(prediction.logp_nats))] == prediction.answer
    assert math.exp(Majority(train).predict([closed(50, "?", "yes")])[0].logp_nats[1]) == pytest.approx(30.5 / 41)


def test_question_only_learns_the_wording():
    train = [closed(i, f"is there a mass in slice {i}", "yes") for i in range(20)]
    train += [closed(20 + i, f"is the heart normal in slice {i}", "no") for i in range(20)]
    train += [opened(i, "where is the mass", "left lobe") for i in range(5)]
    train += [opened(9 + i, "which organ is shown", "Heart") for i in range(5)]
    asked = [closed(90, "is there a mass", "no"), opened(91, "which organ", "?"), closed(92, "heart normal?", "no")]
    asked += [opened(93, "where is it", "?")]
    predictions = QuestionOnly(train).predict([ask(query) for query in asked])
    assert [p.answer for p in predictions] == ["yes", "Heart", "no", "left lobe"]
    assert [p.query_id for p in predictions] == [f"test-{query.id}" for query in asked]
    assert all(p.gold is None for p in predictions)


def test_unseen_choices_do_not_break_it():
    train = [closed(i, f"mass {i % 2}", "yes" if i % 2 else "no") for i in range(10)]
    some, none = closed(20, "mass 1", "yes", ("yes", "perhaps")), closed(21, "mass", "left", ("left", "right"))
    first, second = QuestionOnly(train).predict([some, none])
    assert first.answer == "yes"
    assert math.exp(first.logp_nats[1]) < 0.2
    assert second.answer == "left"
    assert system_of(second) == "question-only"


@pytest.mark.parametrize(
    ("train", "word"),
    [
        ([closed(i, "what is shown", "yes" if i else "no") for i in range(4)], "question"),
        ([closed(i, f"question {i}", "yes") for i in range(4)], "answer"),
    ],
)
def test_says_when_it_is_only_the_majority(train, word):
    model = QuestionOnly(train)
    assert len(model.notes) == 1
    assert f"only one closed training {word}" in model.notes[0]
    assert model.predict([closed(9, "what", "no")])[0].answer == "yes"


def test_both_controls_answer_everything_and_alike_each_time():
    train = [closed(i, f"mass {i % 3}", "yes" if i % 3 else "no") for i in range(30)]
    asked = [closed(50 + i, f"mass {i % 3}", "yes") for i in range(6)]
    predictions, notes = control_predictions(train, asked)
    assert [system_of(p) for p in predictions] == ["majority"] * 6 + ["question-only"] * 6
    assert not notes
    assert control_predictions(train, asked)[0] == predictions
